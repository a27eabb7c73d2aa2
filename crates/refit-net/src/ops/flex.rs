//! What the CPU does in its own way.

use burn::backend::Flex;

use super::CnnOps;

impl CnnOps for Flex {}
