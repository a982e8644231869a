//! A grid of characters with a cursor: what is on the screen, independent of how cells are drawn.

/// Columns at most.
pub const MAX_COLUMNS: usize = 160;
/// Rows at most.
pub const MAX_ROWS: usize = 64;

/// Draws one cell.
pub trait Cells {
    /// Shows `byte` (printable ASCII or a space).
    fn draw(&mut self, column: usize, row: usize, byte: u8);
}

/// The grid. All spaces at first, which is what the display must show then.
pub struct Grid {
    cells: [[u8; MAX_COLUMNS]; MAX_ROWS],
    columns: usize,
    rows: usize,
    column: usize,
    row: usize,
}

impl Grid {
    /// No cells; takes no space in the image.
    pub const fn new() -> Self {
        Self { cells: [[0; MAX_COLUMNS]; MAX_ROWS], columns: 0, rows: 0, column: 0, row: 0 }
    }

    /// Sets the size, cut to the maximum, and draws all of it as spaces.
    pub fn resize(&mut self, columns: usize, rows: usize, display: &mut impl Cells) {
        self.columns = columns.min(MAX_COLUMNS);
        self.rows = rows.min(MAX_ROWS);
        (self.column, self.row) = (0, 0);
        for row in 0..self.rows {
            for column in 0..self.columns {
                self.cells[row][column] = b' ';
                display.draw(column, row, b' ');
            }
        }
    }

    /// Writes a byte at the cursor; newline and carriage return move it, other control bytes show as `?`.
    pub fn put(&mut self, byte: u8, display: &mut impl Cells) {
        if self.columns == 0 || self.rows == 0 {
            return;
        }
        match byte {
            b'\n' => self.new_line(display),
            b'\r' => self.column = 0,
            _ => {
                if self.column == self.columns {
                    self.new_line(display);
                }
                let byte = if (0x20..0x7f).contains(&byte) { byte } else { b'?' };
                self.set(self.column, self.row, byte, display);
                self.column += 1;
            }
        }
    }

    fn set(&mut self, column: usize, row: usize, byte: u8, display: &mut impl Cells) {
        let cell = &mut self.cells[row][column];
        if *cell != byte {
            *cell = byte;
            display.draw(column, row, byte);
        }
    }

    /// Goes to the next row, scrolling up by one at the end; only cells that change are drawn.
    fn new_line(&mut self, display: &mut impl Cells) {
        self.column = 0;
        if self.row + 1 < self.rows {
            self.row += 1;
            return;
        }
        for row in 0..self.rows {
            for column in 0..self.columns {
                let below = if row + 1 < self.rows { self.cells[row + 1][column] } else { b' ' };
                self.set(column, row, below, display);
            }
        }
    }
}

impl Default for Grid {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::string::String;

    #[derive(Default)]
    struct Fake {
        shown: BTreeMap<(usize, usize), u8>,
        draws: usize,
    }

    impl Cells for Fake {
        fn draw(&mut self, column: usize, row: usize, byte: u8) {
            self.shown.insert((row, column), byte);
            self.draws += 1;
        }
    }

    impl Fake {
        fn row(&self, row: usize) -> String {
            self.shown.range((row, 0)..(row + 1, 0)).map(|(_, &byte)| char::from(byte)).collect()
        }
    }

    fn write(grid: &mut Grid, fake: &mut Fake, text: &str) {
        text.bytes().for_each(|byte| grid.put(byte, fake));
    }

    #[test]
    fn wraps_and_scrolls() {
        let (mut grid, mut fake) = (Grid::new(), Fake::default());
        grid.resize(4, 2, &mut fake);
        write(&mut grid, &mut fake, "abcdef\ngh");
        assert_eq!((fake.row(0).as_str(), fake.row(1).as_str()), ("ef  ", "gh  "));
    }

    #[test]
    fn only_changed_cells_are_drawn() {
        let (mut grid, mut fake) = (Grid::new(), Fake::default());
        grid.resize(4, 2, &mut fake);
        write(&mut grid, &mut fake, "same\nsame");
        fake.draws = 0;
        write(&mut grid, &mut fake, "\n");
        assert_eq!(fake.draws, 4, "the second row became empty, the first stayed");
    }

    #[test]
    fn control_bytes_and_no_cells() {
        let (mut grid, mut fake) = (Grid::new(), Fake::default());
        write(&mut grid, &mut fake, "lost");
        grid.resize(1000, 1000, &mut fake);
        write(&mut grid, &mut fake, "\x07\u{e9}");
        assert_eq!(&fake.row(0)[..4], "??? ");
    }
}
