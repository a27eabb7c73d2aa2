//! Pools. ONNX gives the pixels at each end by number; a layer's windows are looked for that meet the
//! same pixels.

use super::layers::Ends;
use super::{Mapper, Result1};
use crate::layer::{Divisor, Layer, Padding, Windows};
use crate::onnx::OnnxError;
use crate::shape::Shape;

impl Mapper<'_, '_> {
    pub(super) fn max_pool(&mut self) -> Result1 {
        let (x, windows) = self.windows(None)?;
        let id = self.push_layer(Layer::MaxPool(windows), Vec::new(), &[x])?;
        Ok(self.new_map(id))
    }

    pub(super) fn average_pool(&mut self) -> Result1 {
        let (x, shape) = self.map(0)?;
        let Shape::Map { height, width, .. } = shape else { unreachable!("a map") };
        let (kernel, stride) = (self.site.pair("kernel_shape", 1)?, self.site.pair("strides", 1)?);
        let whole = kernel == [height, width];
        let tiles = kernel == stride
            && kernel[0] != kernel[1]
            && kernel.iter().zip([height, width]).all(|(&k, size)| k > 0 && size % k == 0);
        if (whole || tiles) && self.ends(shape, kernel, stride)? == [(0, 0); 2] {
            let size = [height / kernel[0], width / kernel[1]];
            let id = self.push_layer(Layer::AdaptiveAvgPool { size }, Vec::new(), &[x])?;
            return Ok(self.new_map(id));
        }
        let divisor = match self.site.int("count_include_pad", 0) {
            0 => Divisor::Inside,
            _ => Divisor::Padded,
        };
        let (x, windows) = self.windows(Some(divisor))?;
        let id = self.push_layer(Layer::AvgPool { windows, divisor }, Vec::new(), &[x])?;
        Ok(self.new_map(id))
    }

    pub(super) fn global_max_pool(&mut self) -> Result1 {
        let (x, shape) = self.map(0)?;
        let Shape::Map { height, width, .. } = shape else { unreachable!("a map") };
        if height != width {
            let problem = format!("it takes the maximum of {height}x{width} pixels");
            return Err(self.site.unsupported(problem, "a square map"));
        }
        let windows = Windows::new(height, height);
        let id = self.push_layer(Layer::MaxPool(windows), Vec::new(), &[x])?;
        Ok(self.new_map(id))
    }

    /// A pool's windows on a map; zeros that no window's padding is are a layer before it.
    fn windows(&mut self, divisor: Option<Divisor>) -> Result<(usize, Windows), OnnxError> {
        let (x, shape) = self.map(0)?;
        let kernel = self.site.pair("kernel_shape", 1)?;
        let stride = self.site.pair("strides", 1)?;
        let square = kernel[0] == kernel[1] && stride[0] == stride[1];
        if !square || kernel[0] * stride[0] == 0 || self.site.pair("dilations", 1)? != [1; 2] {
            return Err(self.site.unsupported(
                format!("its windows are {kernel:?}, its strides {stride:?}"),
                "square windows without dilation, with one stride",
            ));
        }
        let ends = self.ends(shape, kernel, stride)?;
        let ceil = self.site.int("ceil_mode", 0) != 0 && !self.is_same();
        let wanted = Wanted { window: kernel[0], stride: stride[0], ends, ceil };
        let padded = divisor == Some(Divisor::Padded);
        if let Some(windows) = wanted.windows(shape, self.is_same(), padded) {
            return Ok((x, windows));
        }
        let [rows, columns] = ends.map(|(before, behind)| [before as isize, behind as isize]);
        let windows = Windows { ceil, ..Windows::new(kernel[0], stride[0]) };
        if padded {
            let id = self.push_layer(Layer::Pad { rows, columns }, Vec::new(), &[x])?;
            let around = self.importer.draft.shape(id);
            if wanted.counts(shape) == counts(&windows, around) {
                return Ok((id, windows));
            }
        }
        Err(self.site.unsupported(
            format!("it pads rows by {rows:?} and columns by {columns:?}"),
            "the same padding at both ends",
        ))
    }

    fn is_same(&self) -> bool {
        self.site.word("auto_pad", "NOTSET").starts_with("SAME")
    }
}

/// The windows that a node asks for.
struct Wanted {
    window: usize,
    stride: usize,
    ends: Ends,
    /// Whether a last window reaches beyond the pixels added behind.
    ceil: bool,
}

impl Wanted {
    /// A layer's windows that meet the same pixels of this map; of the zeros too, if they count in
    /// an average.
    fn windows(&self, shape: Shape, same_first: bool, zeros_count: bool) -> Option<Windows> {
        let befores = Padding::Symmetric(self.ends.map(|(before, _)| before));
        let mut paddings = [befores, Padding::Same];
        if same_first {
            paddings.reverse();
        }
        let candidates = paddings.into_iter().flat_map(|padding| {
            [self.ceil, !self.ceil].map(|ceil| Windows {
                padding,
                ceil,
                ..Windows::new(self.window, self.stride)
            })
        });
        candidates.into_iter().find(|windows| self.are_met_by(windows, shape, zeros_count))
    }

    fn are_met_by(&self, windows: &Windows, shape: Shape, zeros_count: bool) -> bool {
        let (wanted, counts) = (self.counts(shape), counts(windows, shape));
        let Some(wanted) = wanted.filter(|_| wanted == counts) else { return false };
        sides(shape).into_iter().enumerate().all(|(axis, size)| {
            let (before, behind) = windows.pads(axis, size);
            let (wanted_before, wanted_behind) = self.ends[axis];
            let reach = (wanted[axis] - 1) * self.stride + self.window - before.min(self.window);
            let zeros = |behind: usize| reach.min(size + behind);
            before == wanted_before && (!zeros_count || zeros(behind) == zeros(wanted_behind))
        })
    }

    /// Windows along rows and columns; `None` where not one fits.
    fn counts(&self, shape: Shape) -> Option<[usize; 2]> {
        let windows = Windows { ceil: self.ceil, ..Windows::new(self.window, self.stride) };
        let [height, width] = sides(shape);
        let [rows, columns] = self.ends;
        Some([windows.count_between(height, rows)?, windows.count_between(width, columns)?])
    }
}

fn counts(windows: &Windows, shape: Shape) -> Option<[usize; 2]> {
    let [height, width] = sides(shape);
    Some([windows.count(0, height)?, windows.count(1, width)?])
}

fn sides(shape: Shape) -> [usize; 2] {
    match shape {
        Shape::Map { height, width, .. } => [height, width],
        Shape::Vector { .. } => [1; 2],
    }
}
