"""What must hold before anything is trained: the sample data has the columns the model expects."""

import csv
import pathlib
import unittest

COLUMNS = ["sepal_length", "sepal_width", "petal_length", "petal_width", "species"]


class Contract(unittest.TestCase):
    def test_sample_data_has_the_columns(self):
        with pathlib.Path(__file__).with_name("data").joinpath("iris.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        self.assertEqual(list(rows[0]), COLUMNS)
        self.assertEqual({row["species"] for row in rows}, {"setosa", "versicolor", "virginica"})


if __name__ == "__main__":
    unittest.main()
