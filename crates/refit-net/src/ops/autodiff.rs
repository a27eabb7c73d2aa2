//! Derivatives of the fused operations, once for all backends.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Autodiff, Backend, TensorMetadata};
use burn::tensor::Shape;

use super::Symmetric;
use super::{CnnOps, Geometry, NormGradients, Normalized, Pooled};
use crate::layer::Activation;

#[derive(Debug)]
struct Convolve;

impl<B: CnnOps> Backward<B, 2> for Convolve {
    type State = (FloatTensor<B>, FloatTensor<B>, Geometry);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let [x_node, weight_node] = ops.parents;
        let gradient = grads.consume::<B>(&ops.node);
        let (x, weight, geometry) = ops.state;
        if let Some(node) = weight_node {
            let (x, w, g) = (x.clone(), weight.clone(), gradient.clone());
            grads.register::<B>(node.id, B::convolve_weight_gradient(x, w, g, geometry));
        }
        if let Some(node) = x_node {
            grads.register::<B>(node.id, B::convolve_x_gradient(x, weight, gradient, geometry));
        }
    }
}

#[derive(Debug)]
struct Normalize;

impl<B: CnnOps> Backward<B, 3> for Normalize {
    type State = (FloatTensor<B>, FloatTensor<B>, Normalized<B>, f64, Activation);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let [x_node, scale_node, shift_node] = ops.parents;
        let gradient = grads.consume::<B>(&ops.node);
        let (x, scale, normed, epsilon, activation) = ops.state;
        let found = B::normalize_gradients(x, scale, normed, gradient, epsilon, activation);
        for (node, gradient) in
            [(x_node, found.x), (scale_node, found.scale), (shift_node, found.shift)]
        {
            if let Some(node) = node {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}

#[derive(Debug)]
struct Activate;

impl<B: CnnOps> Backward<B, 1> for Activate {
    type State = (FloatTensor<B>, Activation);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let gradient = grads.consume::<B>(&ops.node);
        let (output, activation) = ops.state;
        if let [Some(node)] = ops.parents {
            let gradient = B::activate_gradient(output, gradient, activation);
            grads.register::<B>(node.id, gradient);
        }
    }
}

#[derive(Debug)]
struct AddActivate;

impl<B: CnnOps> Backward<B, 2> for AddActivate {
    type State = (FloatTensor<B>, Activation);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let gradient = grads.consume::<B>(&ops.node);
        let (output, activation) = ops.state;
        let gradient = B::activate_gradient(output, gradient, activation);
        for node in ops.parents.into_iter().flatten() {
            grads.register::<B>(node.id, gradient.clone());
        }
    }
}

/// The input is kept for its shape.
#[derive(Debug)]
struct MaxPooling;

impl<B: CnnOps> Backward<B, 1> for MaxPooling {
    type State = (FloatTensor<B>, IntTensor<B>, Symmetric);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let gradient = grads.consume::<B>(&ops.node);
        let (x, indices, pool) = ops.state;
        if let [Some(node)] = ops.parents {
            let gradient = B::max_pool_gradient(x, indices, gradient, pool);
            grads.register::<B>(node.id, gradient);
        }
    }
}

#[derive(Debug)]
struct MeanPooling;

impl<B: Backend> Backward<B, 1> for MeanPooling {
    type State = [usize; 4];

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let gradient = grads.consume::<B>(&ops.node);
        let [n, c, h, w] = ops.state;
        if let [Some(node)] = ops.parents {
            let share = B::float_div_scalar(gradient, ((h * w) as f64).into());
            let share = B::float_reshape(share, Shape::new([n, c, 1, 1]));
            grads.register::<B>(node.id, B::float_expand(share, Shape::new([n, c, h, w])));
        }
    }
}

/// `convolve_fused` and `scale_shift` keep their composed bodies: training does not fuse over a
/// convolution's output that its normalization must see.
impl<B: CnnOps, C: CheckpointStrategy> CnnOps for Autodiff<B, C> {
    fn convolve(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        geometry: Geometry,
    ) -> FloatTensor<Self> {
        let nodes = [x.node(), weight.node()];
        let (x, weight) = (x.into_primitive(), weight.into_primitive());
        match Convolve.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                prep.finish((x.clone(), weight.clone(), geometry), B::convolve(x, weight, geometry))
            }
            OpsKind::UnTracked(prep) => prep.finish(B::convolve(x, weight, geometry)),
        }
    }

    fn convolve_x_gradient(
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: Geometry,
    ) -> FloatTensor<Self> {
        unreachable!("gradients run on the inner backend")
    }

    fn convolve_weight_gradient(
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: Geometry,
    ) -> FloatTensor<Self> {
        unreachable!("gradients run on the inner backend")
    }

    fn normalize(
        x: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        shift: FloatTensor<Self>,
        epsilon: f64,
        activation: Activation,
    ) -> Normalized<Self> {
        let nodes = [x.node(), scale.node(), shift.node()];
        let (x, scale, shift) =
            (x.into_primitive(), scale.into_primitive(), shift.into_primitive());
        let kept = (x.clone(), scale.clone());
        let normed = B::normalize(x, scale, shift, epsilon, activation);
        let (mean, variance) = (normed.mean.clone(), normed.variance.clone());
        let output = match Normalize.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let output = normed.output.clone();
                prep.finish((kept.0, kept.1, normed, epsilon, activation), output)
            }
            OpsKind::UnTracked(prep) => prep.finish(normed.output),
        };
        let lift = <Self as burn::backend::AutodiffBackend>::from_inner;
        Normalized { output, mean: lift(mean), variance: lift(variance) }
    }

    fn normalize_gradients(
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: Normalized<Self>,
        _: FloatTensor<Self>,
        _: f64,
        _: Activation,
    ) -> NormGradients<Self> {
        unreachable!("gradients run on the inner backend")
    }

    fn add_activate(
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        activation: Activation,
    ) -> FloatTensor<Self> {
        let nodes = [a.node(), b.node()];
        let output = B::add_activate(a.into_primitive(), b.into_primitive(), activation);
        match AddActivate.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((output.clone(), activation), output),
            OpsKind::UnTracked(prep) => prep.finish(output),
        }
    }

    fn activate(x: FloatTensor<Self>, activation: Activation) -> FloatTensor<Self> {
        let nodes = [x.node()];
        let output = B::activate(x.into_primitive(), activation);
        match Activate.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((output.clone(), activation), output),
            OpsKind::UnTracked(prep) => prep.finish(output),
        }
    }

    fn max_pool(x: FloatTensor<Self>, pool: Symmetric) -> Pooled<Self> {
        let nodes = [x.node()];
        let x = x.into_primitive();
        let pooled = B::max_pool(x.clone(), pool);
        let indices = pooled.indices;
        let output = match MaxPooling.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((x, indices.clone(), pool), pooled.output),
            OpsKind::UnTracked(prep) => prep.finish(pooled.output),
        };
        Pooled { output, indices }
    }

    fn mean_pool(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let nodes = [x.node()];
        let shape = x.shape().dims();
        let output = B::mean_pool(x.into_primitive());
        match MeanPooling.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(shape, output),
            OpsKind::UnTracked(prep) => prep.finish(output),
        }
    }
}
