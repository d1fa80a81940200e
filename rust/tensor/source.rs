//! A view of a tensor of the checkpoint: two-dimensional, strided, read-only.

use super::dtype::DType;
use crate::error::{Error, Result};

/// A matrix `[rows, columns]` in `data`; strides are in elements. Vectors have one row.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    data: &'a [u8],
    dtype: DType,
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a> Source<'a> {
    /// Checks that every element lies inside `data`.
    pub fn new(
        data: &'a [u8],
        dtype: DType,
        [rows, columns]: [usize; 2],
        [row_stride, column_stride]: [usize; 2],
    ) -> Result<Self> {
        let outside = || {
            Error::Checkpoint(format!(
                "a tensor of {rows} x {columns} elements does not fit its {} bytes",
                data.len()
            ))
        };
        if rows > 0 && columns > 0 {
            let last = (rows - 1)
                .checked_mul(row_stride)
                .and_then(|a| (columns - 1).checked_mul(column_stride).and_then(|b| a.checked_add(b)))
                .and_then(|last| last.checked_add(1))
                .and_then(|n| n.checked_mul(dtype.bytes()))
                .ok_or_else(outside)?;
            if last > data.len() {
                return Err(outside());
            }
        }
        Ok(Source { data, dtype, rows, columns, row_stride, column_stride })
    }

    pub fn dtype(&self) -> DType {
        self.dtype
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Copies one row as f32; `out` holds `columns` values.
    pub fn row_into(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.rows && out.len() == self.columns, "row within the tensor");
        let size = self.dtype.bytes();
        let start = row * self.row_stride;
        if self.column_stride == 1 || self.columns == 1 {
            let bytes = &self.data[start * size..(start + self.columns) * size];
            match self.dtype {
                DType::F32 => {
                    read(out, bytes.chunks_exact(4), |b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                }
                DType::F16 => {
                    read(out, bytes.chunks_exact(2), |b| half::f16::from_le_bytes([b[0], b[1]]).to_f32());
                }
                DType::Bf16 => read(out, bytes.chunks_exact(2), |b| {
                    f32::from_bits(u32::from(u16::from_le_bytes([b[0], b[1]])) << 16)
                }),
            }
            return;
        }
        for (j, o) in out.iter_mut().enumerate() {
            let at = (start + j * self.column_stride) * size;
            let b = &self.data[at..at + size];
            *o = match self.dtype {
                DType::F32 => f32::from_le_bytes([b[0], b[1], b[2], b[3]]),
                DType::F16 => half::f16::from_le_bytes([b[0], b[1]]).to_f32(),
                DType::Bf16 => half::bf16::from_le_bytes([b[0], b[1]]).to_f32(),
            };
        }
    }
}

/// Converts elements in order.
fn read<'b>(out: &mut [f32], bytes: impl Iterator<Item = &'b [u8]>, value: impl Fn(&[u8]) -> f32) {
    for (o, b) in out.iter_mut().zip(bytes) {
        *o = value(b);
    }
}
