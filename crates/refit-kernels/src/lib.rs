//! CPU compute on slices, without a framework: `f32` in, `f32` out.
//!
//! Each kernel is a safe function that asserts its lengths, picks the widest vectors this CPU has at
//! run time, and has a scalar twin that tests compare it with. Results do not depend on the number
//! of threads.

mod elementwise;

pub use elementwise::{Bounds, add_clamp, clamp, clamp_gradient, scale_shift_clamp};
