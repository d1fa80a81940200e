//! Products against the roofline of the machine: `cargo bench -p lapwing-benches --bench matmul [-- THREADS
//! [TYPE ...]]`.
//!
//! For each weight type and number of rows, in alternating rounds: the rate of multiply-adds as a fraction of
//! the f32 peak, and the bytes of weights read as a fraction of the read bandwidth, both measured in the same
//! rounds; medians. Weights of few rows cycle through a set of matrices larger than the caches, as in
//! decoding.

use _core::matmul::{Activations, Matrix, Scratch, Target, linear};
use _core::roofline::{ReadBuffer, multiply_adds};
use _core::simd::level;
use _core::tensor::{DType, Source, WeightType};
use _core::threads::Pool;
use std::time::Instant;

const ROUNDS: usize = 7;

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|a| a != "--bench");
    let threads = arguments.next().and_then(|a| a.parse().ok()).unwrap_or(2);
    let wanted: Vec<String> = arguments.collect();
    let pool = Pool::new(threads);
    let memory = ReadBuffer::new(256 << 20).expect("256 MB");
    println!("{threads} threads, {}", level().name());
    println!(
        "| type | outputs x inputs | rows | GMAC/s | of peak | GB/s | of read |\n|---|---|---|---|---|---|---|"
    );
    for (outputs, inputs) in [(2048, 2048), (8192, 2048), (2048, 8192), (384, 384), (1536, 384)] {
        let values: Vec<u8> = (0..outputs * inputs)
            .flat_map(|i| (((i * 2_654_435_761) >> 7 & 1023) as f32 / 5120.0 - 0.1).to_le_bytes())
            .collect();
        let source = Source::new(&values, DType::F32, [outputs, inputs], [inputs, 1]).expect("fits");
        for (name, to, activations) in [
            ("f32", WeightType::F32, Activations::Int16),
            ("bf16", WeightType::Bf16, Activations::Int16),
            ("bf16 bf16", WeightType::Bf16, Activations::Bf16),
            ("q8", WeightType::Q8, Activations::Int16),
            ("q8 int8", WeightType::Q8, Activations::Int8),
            ("q6", WeightType::Q6, Activations::Int16),
            ("q4", WeightType::Q4, Activations::Int16),
        ] {
            if !wanted.is_empty() && !wanted.iter().any(|w| w == name) {
                continue;
            }
            let make = || {
                let w = pool.run_alone(|team| Matrix::pack(&source, to, team)).expect("finite");
                w.with_activations(activations)
            };
            let first = make();
            let copies = (200 << 20) / first.bytes().max(1) + 1;
            let set: Vec<Matrix> = (1..copies.min(40)).map(|_| make()).chain([first]).collect();
            for rows in [1, 4, 8, 32, 512] {
                let x: Vec<f32> = (0..rows * inputs).map(|i| ((i * 31) % 97) as f32 / 48.0 - 1.0).collect();
                let mut out = vec![0.0; rows * outputs];
                let mut scratch = Scratch::default();
                let (mut rates, mut peaks, mut bytes, mut reads) = (vec![], vec![], vec![], vec![]);
                let calls = if rows > 32 { 2 } else { set.len() };
                for _ in 0..ROUNDS {
                    pool.run_alone(|team| {
                        peaks.push(multiply_adds(team));
                        reads.push(memory.read(team));
                        let start = Instant::now();
                        for w in set.iter().cycle().take(calls) {
                            let target = [Target::new(w, None, &mut out)];
                            linear(team, &mut scratch, x.as_slice().into(), rows, &target);
                        }
                        let seconds = start.elapsed().as_secs_f64();
                        rates.push((calls * rows * outputs * inputs) as f64 / seconds / 1e9);
                        bytes.push((calls * set[0].bytes()) as f64 / seconds / 1e9);
                    });
                }
                let (rate, peak) = (median(rates), median(peaks));
                let (gb, read) = (median(bytes), median(reads));
                println!(
                    "| {name} | {outputs} x {inputs} | {rows} | {rate:.1} | {:.2} | {gb:.1} | {:.2} |",
                    rate / peak,
                    gb / read
                );
            }
        }
    }
}
