//! Adapters read back and compared: factors as f64, and dense updates where the split between the
//! factors is free.

use std::collections::BTreeMap;

use kmerge_client::v1;
use kmerge_proto::limits;
use safetensors::{Dtype, SafeTensors};
use tonic::transport::Channel;
use v1::fetch_slot_response::Content;
use v1::slot_service_client::SlotServiceClient;

/// A matrix, row by row.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Matrix {
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) values: Vec<f64>,
}

impl Matrix {
    /// The product of two matrices.
    pub(crate) fn times(&self, right: &Self) -> Self {
        assert_eq!(self.columns, right.rows);
        let mut values = vec![0.0; self.rows * right.columns];
        for row in 0..self.rows {
            for inner in 0..self.columns {
                let left = self.values[row * self.columns + inner];
                for column in 0..right.columns {
                    values[row * right.columns + column] +=
                        left * right.values[inner * right.columns + column];
                }
            }
        }
        Self {
            rows: self.rows,
            columns: right.columns,
            values,
        }
    }

    /// The same times a number.
    pub(crate) fn scaled(&self, by: f64) -> Self {
        let values = self.values.iter().map(|value| by * value).collect();
        Self { values, ..*self }
    }

    /// The largest absolute value.
    pub(crate) fn largest(&self) -> f64 {
        self.values
            .iter()
            .fold(0.0, |largest, value| value.abs().max(largest))
    }

    /// The largest absolute difference.
    pub(crate) fn difference(&self, other: &Self) -> f64 {
        assert_eq!((self.rows, self.columns), (other.rows, other.columns));
        let pairs = self.values.iter().zip(&other.values);
        pairs.fold(0.0, |largest, (l, r)| (l - r).abs().max(largest))
    }

    /// The Frobenius norm of the difference.
    pub(crate) fn distance(&self, other: &Self) -> f64 {
        assert_eq!((self.rows, self.columns), (other.rows, other.columns));
        let pairs = self.values.iter().zip(&other.values);
        pairs.map(|(l, r)| (l - r) * (l - r)).sum::<f64>().sqrt()
    }
}

/// The tensors of a safetensors file, by name.
pub(crate) fn read(bytes: &[u8]) -> BTreeMap<String, Matrix> {
    let file = SafeTensors::deserialize(bytes).unwrap();
    let tensors = file.tensors().into_iter().map(|(name, tensor)| {
        let data = tensor.data();
        let values = if tensor.dtype() == Dtype::F16 {
            data.chunks_exact(2)
                .map(|bytes| half::f16::from_le_bytes(bytes.try_into().unwrap()).to_f64())
                .collect()
        } else {
            assert_eq!(tensor.dtype(), Dtype::F32, "{name}");
            data.chunks_exact(4)
                .map(|bytes| f64::from(f32::from_le_bytes(bytes.try_into().unwrap())))
                .collect()
        };
        let matrix = Matrix {
            rows: tensor.shape()[0],
            columns: tensor.shape()[1],
            values,
        };
        (name, matrix)
    });
    tensors.collect()
}

/// B · A of every module, by the module's name with PEFT's prefix.
pub(crate) fn updates(factors: &BTreeMap<String, Matrix>) -> BTreeMap<String, Matrix> {
    let modules = factors.iter().filter_map(|(name, a)| {
        let module = name.strip_suffix(".lora_A.weight")?;
        let b = &factors[&format!("{module}.lora_B.weight")];
        Some((module.to_owned(), b.times(a)))
    });
    modules.collect()
}

/// An export as it came: its header, and each file's bytes by name.
#[derive(Debug)]
pub(crate) struct Export {
    pub(crate) header: v1::ExportHeader,
    pub(crate) files: BTreeMap<String, Vec<u8>>,
}

impl Export {
    /// The tensor file.
    pub(crate) fn tensors(&self) -> &[u8] {
        &self.files["adapter_model.safetensors"]
    }

    /// The configuration.
    pub(crate) fn config(&self) -> serde_json::Value {
        serde_json::from_slice(&self.files["adapter_config.json"]).unwrap()
    }
}

/// Fetches a slot by the raw call; generation 0 is the newest.
pub(crate) async fn fetch(
    channel: &Channel,
    base_model: &str,
    slot: u32,
    generation: u64,
) -> Result<Export, tonic::Status> {
    let request = v1::FetchSlotRequest {
        base_model: base_model.to_owned(),
        slot,
        generation,
        format: v1::AdapterFormat::Peft.into(),
        ..v1::FetchSlotRequest::default()
    };
    let mut client = SlotServiceClient::new(channel.clone())
        .max_decoding_message_size(limits::MAX_MESSAGE_BYTES);
    let mut stream = client.fetch_slot(request).await?.into_inner();
    let Some(Content::Header(header)) = stream.message().await?.unwrap().content else {
        panic!("an export begins with its header");
    };
    let mut files = vec![Vec::new(); header.files.len()];
    while let Some(message) = stream.message().await? {
        let Some(Content::Chunk(chunk)) = message.content else {
            panic!("chunks follow the header");
        };
        assert!(chunk.data.len() <= limits::MAX_CHUNK_BYTES);
        files[usize::try_from(chunk.file).unwrap()].extend_from_slice(&chunk.data);
    }
    let names = header.files.iter().map(|file| file.name.clone());
    Ok(Export {
        files: names.zip(files).collect(),
        header,
    })
}
