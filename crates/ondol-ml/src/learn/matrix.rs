//! Dense rows of finite numbers.

/// Rows of equal width, one after the other.
#[derive(Clone, Debug, PartialEq, Default)]
pub(crate) struct Matrix {
    pub(crate) width: usize,
    pub(crate) data: Vec<f64>,
}

impl Matrix {
    pub(crate) fn with_capacity(rows: usize, width: usize) -> Self {
        Self {
            width,
            data: Vec::with_capacity(rows * width),
        }
    }

    #[cfg(test)]
    pub(crate) fn from_rows(rows: &[Vec<f64>]) -> Self {
        Self {
            width: rows[0].len(),
            data: rows.concat(),
        }
    }

    pub(crate) fn rows(&self) -> usize {
        self.data.len().checked_div(self.width).unwrap_or(0)
    }

    pub(crate) fn row(&self, row: usize) -> &[f64] {
        &self.data[row * self.width..(row + 1) * self.width]
    }

    pub(crate) fn at(&self, row: usize, column: usize) -> f64 {
        self.data[row * self.width + column]
    }
}

pub(crate) fn dot(one: &[f64], other: &[f64]) -> f64 {
    one.iter().zip(other).map(|(a, b)| a * b).sum()
}
