//! A centred convolution over the rows of a sequence (DeBERTa-v2-xl): `activation(conv1d(x) + bias)`.

use super::operator::{Capture, Operator, Widths};
use super::pass::Pass;
use super::stream::Stream;
use crate::error::Result;
use crate::model::bounds::{Site, refuse, size};
use crate::model::describe::mirror;
use crate::model::state::State;
use crate::model::walk::Walk;
use crate::simd::Activation;

mirror!(/// A convolution of an odd kernel over groups of channels.
ConvolutionSpec { kernel: usize, groups: usize, activation: Activation });

/// A loaded convolution.
pub struct Convolution {
    spec: ConvolutionSpec,
    /// `[hidden, hidden / groups * kernel]`
    weight: Vec<f32>,
    bias: Vec<f32>,
}

impl Operator for Convolution {
    type Spec = ConvolutionSpec;
    type Scratch = ();
    const NAME: &'static str = "convolution";

    fn validate(c: &ConvolutionSpec, place: &str, site: &Site) -> Result<()> {
        size(place, "kernel", c.kernel)?;
        size(place, "groups", c.groups)?;
        if c.kernel.is_multiple_of(2) {
            return refuse(place, "kernel", c.kernel, "an odd number");
        }
        if !site.hidden_size.is_multiple_of(c.groups) {
            return refuse(place, "groups", c.groups, "a divisor of hidden_size");
        }
        if site.decoder {
            return refuse(
                place,
                "kind",
                "convolution",
                "one only in an encoder: it reads the tokens that follow",
            );
        }
        Ok(())
    }

    fn load(c: &ConvolutionSpec, walk: &mut Walk<'_>, name: &str, widths: Widths) -> Convolution {
        let width = widths.hidden;
        Convolution {
            weight: walk.values(format!("{name}.weight"), vec![width, width / c.groups * c.kernel]),
            bias: walk.values(format!("{name}.bias"), vec![width]),
            spec: c.clone(),
        }
    }

    fn forward(&self, pass: &Pass<'_>, stream: &mut Stream<'_>, _: State<'_>, _: &mut (), _: Capture<'_>) {
        let (c, width) = (&self.spec, pass.hidden);
        let (half, per_group) = (c.kernel / 2, width / c.groups);
        let (input, output, _) = stream.input_and_output(pass);
        let span_of = |row: usize| {
            pass.view.spans.iter().find(|s| s.rows.contains(&row)).expect("every row has a span")
        };
        pass.team.run_mut(output, width, &|row, out, _| {
            let span = span_of(row);
            out.copy_from_slice(&self.bias);
            for (o, y) in out.iter_mut().enumerate() {
                let group = o / per_group * per_group;
                for i in 0..per_group {
                    for t in 0..c.kernel {
                        let at = row + t;
                        if at >= span.rows.start + half && at < span.rows.end + half {
                            let weight = self.weight[(o * per_group + i) * c.kernel + t];
                            *y = weight.mul_add(input[(at - half) * width + group + i], *y);
                        }
                    }
                }
            }
            crate::simd::activate(c.activation, out);
        });
        stream.residual(pass);
    }
}
