//! The screen: VGA text cells, or pixels of a linear framebuffer with an embedded font.
#![allow(unsafe_code, reason = "video memory")]

use super::grid::{Cells, Grid};
use crate::boot::info::Display;
use noto_sans_mono_bitmap::{FontWeight, RasterHeight, get_raster, get_raster_width};

const GLYPH_HEIGHT: usize = 16;
const VGA_COLUMNS: usize = 80;
const VGA_ROWS: usize = 25;

enum Surface {
    None,
    /// Cells of character and attribute.
    Text(*mut u16),
    Pixels {
        base: *mut u8,
        pitch: usize,
        pixel_bytes: usize,
    },
}

impl Cells for Surface {
    fn draw(&mut self, column: usize, row: usize, byte: u8) {
        match *self {
            Self::None => {}
            // SAFETY: the grid is 80 by 25, and the cells are mapped (see `Screen::attach`).
            Self::Text(cells) => unsafe {
                cells.add(row * VGA_COLUMNS + column).write_volatile(0x0700 | u16::from(byte))
            },
            Self::Pixels { base, pitch, pixel_bytes } => draw_glyph(base, pitch, pixel_bytes, column, row, byte),
        }
    }
}

fn draw_glyph(base: *mut u8, pitch: usize, pixel_bytes: usize, column: usize, row: usize, byte: u8) {
    /// Pixels of a glyph's line, 4 bytes each.
    const LINE: usize = 16 * 4;
    let width = get_raster_width(FontWeight::Regular, RasterHeight::Size16);
    let Some(glyph) = get_raster(char::from(byte), FontWeight::Regular, RasterHeight::Size16) else {
        return;
    };
    for (line, intensities) in glyph.rows().enumerate() {
        let mut pixels = [0u8; LINE];
        for (pixel, &intensity) in pixels.chunks_exact_mut(pixel_bytes).zip(intensities) {
            pixel.fill(intensity);
        }
        let size = (intensities.len() * pixel_bytes).min(LINE);
        let offset = (row * GLYPH_HEIGHT + line) * pitch + column * width * pixel_bytes;
        // SAFETY: the grid has as many whole cells as fit into the framebuffer, which is mapped whole. Nobody reads it.
        unsafe { base.add(offset).copy_from_nonoverlapping(pixels.as_ptr(), size) };
    }
}

/// A grid shown on a surface.
pub(super) struct Screen {
    grid: Grid,
    surface: Surface,
}

// SAFETY: the pointers are to video memory that only this object uses, from any processor, under the console's lock.
unsafe impl Send for Screen {}

impl Screen {
    pub(super) const fn new() -> Self {
        Self { grid: Grid::new(), surface: Surface::None }
    }

    /// Shows `display`, whose memory is mapped at `base`, from an empty screen.
    ///
    /// # Safety
    /// All of the display's memory is mapped writable there for as long as the screen is used.
    pub(super) unsafe fn attach(&mut self, display: Display, base: *mut u8) {
        let (columns, rows) = match display {
            Display::Text { .. } => {
                self.surface = Surface::Text(base.cast());
                (VGA_COLUMNS, VGA_ROWS)
            }
            Display::Pixels { pitch, width, height, pixel_bytes, .. } => {
                self.surface = Surface::Pixels { base, pitch: pitch as usize, pixel_bytes: pixel_bytes.into() };
                let glyph = get_raster_width(FontWeight::Regular, RasterHeight::Size16);
                (width as usize / glyph, height as usize / GLYPH_HEIGHT)
            }
        };
        self.grid.resize(columns, rows, &mut self.surface);
    }

    /// The same display is from now on mapped at `base`.
    ///
    /// # Safety
    /// As for [`Screen::attach`].
    pub(super) unsafe fn rebase(&mut self, base: *mut u8) {
        match &mut self.surface {
            Surface::None => {}
            Surface::Text(cells) => *cells = base.cast(),
            Surface::Pixels { base: old, .. } => *old = base,
        }
    }

    /// No screen any more.
    pub(super) fn detach(&mut self) {
        self.surface = Surface::None;
    }

    pub(super) fn write(&mut self, bytes: &[u8]) {
        if !matches!(self.surface, Surface::None) {
            bytes.iter().for_each(|&byte| self.grid.put(byte, &mut self.surface));
        }
    }
}
