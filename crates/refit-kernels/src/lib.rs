//! CPU compute on slices, without a framework: `f32` in, `f32` out.
//!
//! Each kernel is a safe function that asserts its lengths and picks the widest vectors this CPU has
//! at run time; tests compare it with its scalar definition. Results do not depend on the number of
//! threads.

mod elementwise;

pub use elementwise::{Bounds, add_clamp, clamp, clamp_gradient, scale_shift_clamp};
