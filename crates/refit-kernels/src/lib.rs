//! CPU compute on slices, without a framework: `f32` in, `f32` out.
//!
//! Feature maps are `[n, h, w, c]` (NHWC): the channels of a pixel lie side by side. Each kernel is
//! a safe function that asserts its lengths and picks the widest vectors this CPU has at run time;
//! tests compare it with its scalar definition. Results do not depend on the number of threads, and
//! an image's not on the others of its batch.
#![expect(
    unsafe_code,
    reason = "vectors, and tasks that write disjoint parts of one slice; each use says why it holds"
)]

mod activation;
mod adapt;
pub mod bf16;
mod buffer;
mod channels;
mod conv;
mod curve;
pub mod depthwise;
mod dot;
mod elementwise;
mod inverted;
mod layer_norm;
mod layout;
mod linear;
mod loss;
mod norm;
mod optimize;
mod partials;
mod peak;
mod pool;
mod response;
mod rows;
mod simd;
#[cfg(test)]
mod testing;
mod threads;
mod tile;
mod upsample;
mod walk;
mod winograd;

pub use activation::Activation;
pub use adapt::{Resized, adaptive_pool, adaptive_pool_gradient, pad};
pub use buffer::{Buffer, release};
pub use channels::{Channels, copy_channels, gate, gate_gradient, shuffle_channels};
pub use conv::{
    ConvShape, Entry, Exit, Filter, Moments, convolve, convolve_once, convolve_with_moments,
    input_gradient, input_gradient_through, weight_gradient,
};
pub use curve::{Curve, bend, bend_gradient};
pub use dot::{dot, dot_bytes, dot_halves, prefetch};
pub use elementwise::accumulate;
pub use inverted::{BlockStages, InvertedResidual, InvertedShape, Stage};
pub use layer_norm::{layer_norm, layer_norm_gradient};
pub use layout::{to_channels_first, to_channels_last};
pub use loss::{CrossEntropy, Targets, cross_entropy};
pub use norm::{
    Entering, GradientSums, Through, activation_gradient, affine_gradient, enter, gradient_through,
    moments,
};
pub use optimize::{AdamW, Direction, Sgd, adamw, sgd};
pub use peak::measure_peak;
pub use pool::{
    Divisor, PoolShape, average_pool, average_pool_gradient, max_pool, max_pool_gradient,
    mean_pool, mean_pool_gradient,
};
pub use response::{LocalResponse, local_response, local_response_gradient};
pub use simd::Isa;
pub use threads::together;
pub use upsample::{Upsampling, upsample, upsample_gradient};
