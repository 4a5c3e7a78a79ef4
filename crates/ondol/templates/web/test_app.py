import unittest

import app


class Greeting(unittest.TestCase):
    def test_greets_by_name(self):
        self.assertEqual(app.greeting("Ondol"), "Hello, Ondol!")

    def test_greets_the_world_without_a_name(self):
        self.assertEqual(app.greeting(""), "Hello, world!")


if __name__ == "__main__":
    unittest.main()
