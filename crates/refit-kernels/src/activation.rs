//! Elementwise functions at the end of a convolution or at the entry of the next.

use crate::simd::Simd;

/// An elementwise function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Activation {
    /// `x`.
    #[default]
    Identity,
    /// `max(x, 0)`.
    Relu,
    /// `min(max(x, 0), 6)`.
    Relu6,
}

impl Activation {
    /// The interval that it clamps to.
    pub(crate) const fn bounds(self) -> (f32, f32) {
        match self {
            Self::Identity => (f32::NEG_INFINITY, f32::INFINITY),
            Self::Relu => (0.0, f32::INFINITY),
            Self::Relu6 => (0.0, 6.0),
        }
    }

    /// Its value; a NaN stays one.
    pub fn of(self, x: f32) -> f32 {
        let (low, high) = self.bounds();
        // `f32::max` would drop a NaN.
        if x < low {
            low
        } else if x > high {
            high
        } else {
            x
        }
    }

    /// Its derivative: 1 strictly inside the bounds, else 0.
    pub fn derivative(self, x: f32) -> f32 {
        let (low, high) = self.bounds();
        if x > low && x < high { 1.0 } else { 0.0 }
    }

    /// [`of`](Self::of) a vector.
    ///
    /// # Safety
    /// The CPU has `S`.
    #[inline(always)]
    pub(crate) unsafe fn of_vector<S: Simd>(self, x: S::V) -> S::V {
        let (low, high) = self.bounds();
        // SAFETY: by the caller's word.
        unsafe { S::clamp(x, S::splat(low), S::splat(high)) }
    }

    /// `g * derivative(x)`, vector by vector; 0 where the derivative is 0, whatever `g`.
    ///
    /// # Safety
    /// The CPU has `S`.
    #[inline(always)]
    pub(crate) unsafe fn gradient_vector<S: Simd>(self, g: S::V, x: S::V) -> S::V {
        let (low, high) = self.bounds();
        // SAFETY: by the caller's word.
        unsafe { S::keep_between(g, x, S::splat(low), S::splat(high)) }
    }
}
