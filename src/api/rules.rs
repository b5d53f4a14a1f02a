use std::sync::OnceLock;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::core::cel::{CompiledSchema, Validator, compile_schema};
use serde::Serialize;

/// A kind's CEL rules: the same text that the apiserver runs, for objects that come from a file or from under an
/// older CRD. Compiled once, at the first use; that takes longer than everything else in a visit together.
pub struct Rules {
    definition: fn() -> CustomResourceDefinition,
    compiled: OnceLock<CompiledSchema>,
}

impl Rules {
    /// The rules of the kind that this definition is of.
    pub const fn new(definition: fn() -> CustomResourceDefinition) -> Self {
        Self {
            definition,
            compiled: OnceLock::new(),
        }
    }

    fn compiled(&self) -> &CompiledSchema {
        self.compiled.get_or_init(|| {
            let versions = (self.definition)().spec.versions;
            let schema = versions
                .into_iter()
                .next()
                .and_then(|v| v.schema)
                .and_then(|s| s.open_api_v3_schema);
            compile_schema(&serde_json::to_value(schema).unwrap_or_default())
        })
    }

    /// Holds an object against the rules that speak of one object alone.
    ///
    /// # Errors
    /// One sentence per broken rule, with the field's path first.
    pub fn check(&self, object: &impl Serialize) -> Result<(), Vec<String>> {
        let object = serde_json::to_value(object).map_err(|e| vec![e.to_string()])?;
        Validator::new()
            .validate_compiled(self.compiled(), &object, None)
            .map_err(|errors| {
                errors
                    .iter()
                    .map(|e| format!("{}: {}", e.field_path, e.message))
                    .collect()
            })
    }
}
