//! A network's parameters alone, as PyTorch's `load_state_dict` takes them.

use std::path::Path;

use crate::layer::Layer;
use crate::network::Network;
use crate::state_dict::{Dtype, StateDictError, write_safetensors};

/// Writes a network's parameters under their published names, with the counter that PyTorch keeps
/// for each batch norm, so that `load_state_dict` takes them strictly; nothing else is in the file.
/// Gives the number of tensors.
///
/// # Errors
/// If it cannot be written: no room, no permission.
pub fn save_checkpoint(path: &Path, network: &Network) -> Result<usize, StateDictError> {
    let parameters = network.parameters().iter().map(|(name, parameter)| {
        (name.clone(), parameter.shape.clone(), Dtype::F32, parameter.to_le_bytes())
    });
    let norms = network.graph().nodes().iter().filter(|n| matches!(n.layer, Layer::BatchNorm(_)));
    let counters = norms.map(|norm| {
        let name = format!("{}.num_batches_tracked", norm.name);
        (name, Vec::new(), Dtype::I64, 0_i64.to_le_bytes().to_vec())
    });
    let tensors: Vec<_> = parameters.chain(counters).collect();
    let count = tensors.len();
    write_safetensors(path, tensors, &Default::default())?;
    Ok(count)
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::load::HeadWeights;
    use crate::state_dict::StateDict;
    use crate::zoo;

    #[test]
    fn a_checkpoint_has_every_parameter_and_a_counter_a_norm() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("resnet18.safetensors");
        let net = zoo::find("resnet18").unwrap().random(1, &Device::default());
        assert_eq!(save_checkpoint(&path, &net).unwrap(), 122, "as many as torchvision's");
        let state = StateDict::read(&path).unwrap();
        let counter = state.get("bn1.num_batches_tracked").unwrap();
        assert_eq!((counter.shape(), counter.dtype()), (&[][..], Dtype::I64));
        let mut back = zoo::find("resnet18").unwrap().random(2, &Device::default());
        back.load(&state, HeadWeights::Required).unwrap();
        for (name, parameter) in net.parameters() {
            assert_eq!(back.parameters()[name].to_vec(), parameter.to_vec(), "{name}");
        }
    }
}
