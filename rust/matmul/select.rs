//! The products of each instruction set, one table an instruction set: the only place of `matmul` that
//! distinguishes them.

use super::activations::Packing;
use super::dense::kernels::{self as dense, Dense};
use super::float::{self, Float};
use super::layout::Layout;
use super::matrix::{Activations, Matrix};
use super::quantized::{Blocks, Kernels};
use super::{q4, q6, q8};
use crate::simd::{Isa, Level, multiplies_bf16};
use crate::tensor::WeightType;

/// Minimum number of rows for which blocks of quantized weights are unpacked.
const MANY: usize = 32;

/// The products of an instruction set.
pub struct Selection {
    pub float: Float,
    q8_i16: Quantized,
    q8_i8: Quantized,
    q4: Quantized,
    pub dense: Dense,
}

/// The products of a quantized type.
struct Quantized {
    /// Kernels that read packed blocks.
    packed: &'static Kernels,
    blocks: &'static Blocks,
    /// Kernels for many rows, and the unpacked blocks that they read, where this is faster.
    unpacked: Option<(&'static Kernels, &'static Blocks)>,
}

impl Quantized {
    const fn new(packed: &'static Kernels, blocks: &'static Blocks) -> Quantized {
        Quantized { packed, blocks, unpacked: None }
    }

    #[cfg(target_arch = "x86_64")]
    const fn unpacking(self, kernels: &'static Kernels, blocks: &'static Blocks) -> Quantized {
        Quantized { unpacked: Some((kernels, blocks)), ..self }
    }

    /// Kernels for a number of rows, and the blocks that they read.
    fn product(&self, rows: usize) -> (&'static Kernels, &'static Blocks) {
        match self.unpacked {
            Some(unpacked) if rows >= MANY => unpacked,
            _ => (self.packed, self.blocks),
        }
    }
}

impl Selection {
    fn q8(&self, activations: Activations) -> &Quantized {
        if activations == Activations::Int8 { &self.q8_i8 } else { &self.q8_i16 }
    }
}

static SCALAR: Selection = Selection {
    float: Float { product: float::scalar, layout: Layout::F32, height: 6 },
    q8_i16: Quantized::new(&q8::I16_ACTIVATIONS, &q8::BLOCKS),
    q8_i8: Quantized::new(&q8::I8_ACTIVATIONS, &q8::BLOCKS),
    q4: Quantized::new(&q4::KERNELS, &q4::BLOCKS),
    dense: Dense { multiply: dense::scalar, multiply_half: None },
};

#[cfg(target_arch = "x86_64")]
static AVX2: Selection = Selection {
    float: Float { product: float::x86::AVX2, layout: Layout::F32, height: 6 },
    q8_i16: Quantized::new(&q8::avx2::I16_ACTIVATIONS, &q8::BLOCKS)
        .unpacking(&q8::avx2::I16_UNPACKED, &q8::unpacked::BLOCKS),
    q8_i8: Quantized::new(&q8::avx2::I8_ACTIVATIONS, &q8::BLOCKS)
        .unpacking(&q8::avx2::I8_UNPACKED, &q8::unpacked::BLOCKS),
    q4: Quantized::new(&q4::avx2::KERNELS, &q4::BLOCKS)
        .unpacking(&q4::avx2::UNPACKED, &q4::unpacked::UNPACKED_CODES),
    dense: dense::AVX2,
};

#[cfg(target_arch = "x86_64")]
static AVXVNNI: Selection = Selection {
    float: Float { product: float::x86::AVX2, layout: Layout::F32, height: 6 },
    q8_i16: Quantized::new(&q8::avxvnni::I16_ACTIVATIONS, &q8::BLOCKS),
    q8_i8: Quantized::new(&q8::avxvnni::I8_ACTIVATIONS, &q8::BLOCKS),
    q4: Quantized::new(&q4::avxvnni::KERNELS, &q4::BLOCKS)
        .unpacking(&q4::avxvnni::UNPACKED, &q4::unpacked::UNPACKED_BYTES),
    dense: dense::AVX2,
};

#[cfg(target_arch = "x86_64")]
static AVX512: Selection = Selection {
    float: Float { product: float::x86::AVX512, layout: Layout::F32Rows, height: 12 },
    q8_i16: Quantized::new(&q8::avx512::I16_ACTIVATIONS, &q8::BLOCKS),
    q8_i8: Quantized::new(&q8::avx512::I8_ACTIVATIONS, &q8::BLOCKS),
    q4: Quantized::new(&q4::avx512::KERNELS, &q4::BLOCKS)
        .unpacking(&q4::avx512::UNPACKED, &q4::unpacked::UNPACKED_BYTES),
    dense: dense::AVX512,
};

// NEON never unpacks: that has not been measured.
#[cfg(target_arch = "aarch64")]
static NEON: Selection = Selection {
    float: Float { product: float::neon::product, layout: Layout::F32, height: 6 },
    q8_i16: Quantized::new(&q8::neon::I16_ACTIVATIONS, &q8::BLOCKS),
    q8_i8: Quantized::new(&q8::neon::I8_ACTIVATIONS, &q8::BLOCKS),
    q4: Quantized::new(&q4::neon::KERNELS, &q4::BLOCKS),
    dense: dense::NEON,
};

#[cfg(target_arch = "aarch64")]
static DOTPROD: Selection = Selection {
    float: Float { product: float::neon::product, layout: Layout::F32, height: 6 },
    q8_i16: Quantized::new(&q8::neon::DOTPROD_I16, &q8::BLOCKS),
    q8_i8: Quantized::new(&q8::neon::DOTPROD_I8, &q8::BLOCKS),
    q4: Quantized::new(&q4::neon::DOTPROD, &q4::BLOCKS),
    dense: dense::NEON,
};

#[cfg(target_arch = "aarch64")]
static I8MM: Selection = Selection {
    float: Float { product: float::neon::product, layout: Layout::F32, height: 6 },
    q8_i16: Quantized::new(&q8::neon::I8MM_I16, &q8::BLOCKS),
    q8_i8: Quantized::new(&q8::neon::I8MM_I8, &q8::BLOCKS),
    q4: Quantized::new(&q4::neon::I8MM, &q4::BLOCKS),
    dense: dense::NEON,
};

/// The products of a level.
pub fn of(level: Level) -> &'static Selection {
    match level.isa() {
        Isa::Scalar => &SCALAR,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => &AVX2,
        #[cfg(target_arch = "x86_64")]
        Isa::AvxVnni => &AVXVNNI,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => &AVX512,
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => &NEON,
        #[cfg(target_arch = "aarch64")]
        Isa::Dotprod => &DOTPROD,
        #[cfg(target_arch = "aarch64")]
        Isa::I8mm => &I8MM,
        // Levels of other architectures do not exist here.
        #[allow(unreachable_patterns, reason = "all are listed where each level has an architecture")]
        _ => &SCALAR,
    }
}

/// Bytes of results that a thread computes before their epilogue: they stay in the L1 cache meanwhile.
const SLAB: usize = 32 * 1024;
/// The same where weights are unpacked for each slab: results stay in the L2 cache.
const UNPACKED_SLAB: usize = 256 * 1024;

/// The kernels of a matrix.
#[derive(Clone, Copy)]
pub enum Products {
    Float(Layout),
    Quantized(&'static Kernels, &'static Blocks),
    /// Few rows of 6-bit weights.
    Q6(&'static Kernels),
}

impl Products {
    /// The kernels for a number of rows.
    pub fn of(w: &Matrix, level: Level, rows: usize) -> Products {
        let (kernels, blocks) = match w.weight_type() {
            WeightType::Q8 => of(level).q8(w.activations()).product(rows),
            WeightType::Q6 => (of(level).q8(w.activations()).packed, &q6::BLOCKS),
            WeightType::Q4 => of(level).q4.product(rows),
            _ => return Products::Float(float_layout(level, w)),
        };
        // Few rows are one tile; this product prefetches while it unpacks.
        if w.weight_type() == WeightType::Q6 && rows <= kernels.few.len() {
            Products::Q6(kernels)
        } else {
            Products::Quantized(kernels, blocks)
        }
    }

    /// The layout of activations that the kernels read.
    pub fn layout(self) -> Layout {
        match self {
            Products::Float(layout) => layout,
            Products::Quantized(kernels, _) | Products::Q6(kernels) => kernels.layout,
        }
    }

    /// Whether codes of activations `[rows, inputs]` are row-major, see [`PackedActivations::by_rows`].
    pub fn prefers_rows(self, rows: usize, inputs: usize) -> bool {
        match self {
            Products::Float(_) => false,
            Products::Quantized(kernels, _) | Products::Q6(kernels) => kernels.prefers_rows(rows, inputs),
        }
    }

    /// Bytes of results in a slab.
    pub fn slab(self) -> usize {
        match self {
            Products::Quantized(_, Blocks { unpacking: Some(_), .. }) => UNPACKED_SLAB,
            _ => SLAB,
        }
    }

    /// How activations `[rows, inputs]` are packed.
    pub fn packing(self, level: Level, rows: usize, inputs: usize) -> Packing {
        Packing {
            layout: self.layout(),
            height: self.height(level, rows),
            by_rows: self.prefers_rows(rows, inputs),
        }
    }

    /// Rows in a tile.
    fn height(self, level: Level, rows: usize) -> usize {
        match self {
            Products::Float(layout) => float_height(level, layout, rows),
            Products::Quantized(kernels, _) | Products::Q6(kernels) => kernels.height(rows),
        }
    }
}

/// Rows in a tile of float weights.
fn float_height(level: Level, layout: Layout, rows: usize) -> usize {
    match layout {
        _ if rows <= float::FEW_ROWS => float::FEW_ROWS,
        Layout::Bf16Pairs => float::PAIRS_HEIGHT,
        _ => of(level).float.height,
    }
}

/// The layout of activations for products of a matrix of floats.
fn float_layout(level: Level, w: &Matrix) -> Layout {
    match (w.weight_type(), w.activations()) {
        (WeightType::Bf16, Activations::Bf16) if multiplies_bf16(level) => Layout::Bf16Pairs,
        (WeightType::Bf16, Activations::Bf16) => Layout::Bf16AsF32,
        _ => of(level).float.layout,
    }
}
