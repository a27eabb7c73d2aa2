//! Images that look like other images: an index of their features on disk, search in it, and what
//! follows from neighbours.
//!
//! An [`Index`] keeps one vector an image, from any layer of any model, scaled to length 1 (and
//! whitened, where that is asked for), so that the inner product is the cosine. Up to
//! [`EXACT_UP_TO`] images a search compares with all of them; beyond, it walks a graph of neighbours
//! (Malkov and Yashunin 2018, <https://arxiv.org/abs/1603.09320>). [`evaluate()`] tells how well
//! neighbours agree with labels, [`duplicates()`] finds copies, and [`suspects()`] labels that their
//! image speaks against.

mod duplicates;
mod error;
mod evaluate;
mod exact;
mod graph;
mod index;
mod neighbours;
mod source;
mod suspects;
mod vectors;
mod whitening;

pub use duplicates::{Copies, Duplicates, Group, Pair, duplicates};
pub use error::RetrievalError;
pub use evaluate::{ClassRetrieval, Query, Retrieval, evaluate};
pub use index::{Added, Entry, Hit, Index, IndexOptions, Search};
pub use neighbours::{Neighbour, neighbours};
pub use source::Source;
pub use suspects::{ConfidentJoint, Suspect, Suspects, suspects};
pub use vectors::Element;

/// Images up to which a search compares with all of them.
pub const EXACT_UP_TO: usize = 30_000;

/// Vectors that a search in a graph looks at, at least, where nobody asks for more.
pub const EFFORT: usize = 128;
