//! The kernels of small dense products, and portable code.

/// Strides of the operands: `a[i, k] = a[i * a_stride + k]`, `b[k, j] = b[k * b_stride + j]`, `c[i, j] = c[i
/// * c_stride + j]`.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub rows: usize,
    pub columns: usize,
    pub depth: usize,
    pub a_stride: usize,
    pub b_stride: usize,
    pub c_stride: usize,
}

impl Shape {
    /// Panics where the slices are shorter than the shape.
    pub fn check(&self, a: usize, b: usize, c: usize) {
        let Shape { rows, columns, depth, a_stride, b_stride, c_stride } = *self;
        assert!(c >= (rows - 1) * c_stride + columns, "c holds the result");
        if depth > 0 {
            assert!(a >= (rows - 1) * a_stride + depth, "a holds its rows");
            assert!(b >= (depth - 1) * b_stride + columns, "b holds its rows");
        }
    }
}

/// Products of an instruction set.
pub struct Dense {
    pub multiply: Multiply,
    /// With `b` in f16, for columns in sixteens; without it, `b` is converted first.
    pub multiply_half: Option<Multiply>,
}

/// `c = a b`, or `c += a b` where the last argument says so; `b` is given by its address. The CPU must have the
/// instruction set, and the pointers be valid for the shape.
type Multiply = unsafe fn(&Shape, *const f32, *const u8, *mut f32, bool);

#[cfg(target_arch = "x86_64")]
pub const AVX2: Dense = Dense {
    multiply: super::x86::multiply_avx2::<false>,
    multiply_half: Some(super::x86::multiply_avx2::<true>),
};
#[cfg(target_arch = "x86_64")]
pub const AVX512: Dense = Dense {
    multiply: super::x86::multiply_avx512::<false>,
    multiply_half: Some(super::x86::multiply_avx512::<true>),
};
#[cfg(target_arch = "aarch64")]
pub const NEON: Dense = Dense { multiply: super::neon::multiply, multiply_half: None };

/// Portable code; the other levels equal it to the bit.
///
/// # Safety
/// See [`Multiply`].
pub unsafe fn scalar(s: &Shape, a: *const f32, b: *const u8, c: *mut f32, accumulate: bool) {
    let b: *const f32 = b.cast();
    for i in 0..s.rows {
        for j in 0..s.columns {
            // SAFETY: inside the shape.
            unsafe {
                let c = c.add(i * s.c_stride + j);
                let start = if accumulate { *c } else { 0.0 };
                *c = (0..s.depth).fold(start, |sum, k| {
                    (*a.add(i * s.a_stride + k)).mul_add(*b.add(k * s.b_stride + j), sum)
                });
            }
        }
    }
}
