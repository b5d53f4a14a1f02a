use std::sync::OnceLock;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::core::cel::{CompiledSchema, Validator, compile_schema};
use serde::Serialize;
use serde_json::Value;

use super::bounds::exceeded;

/// A kind's CEL rules and bounds: the same that the apiserver holds objects against, for those that come from a file
/// or from under an older CRD. Compiled once, at the first use; that takes longer than everything else in a visit
/// together.
pub struct Rules {
    definition: fn() -> CustomResourceDefinition,
    compiled: OnceLock<Compiled>,
}

struct Compiled {
    rules: CompiledSchema,
    /// Of the spec alone: the status is ours.
    spec: Value,
}

impl Rules {
    /// The rules of the kind that this definition is of.
    pub const fn new(definition: fn() -> CustomResourceDefinition) -> Self {
        Self {
            definition,
            compiled: OnceLock::new(),
        }
    }

    fn compiled(&self) -> &Compiled {
        self.compiled.get_or_init(|| {
            let versions = (self.definition)().spec.versions;
            let schema = versions
                .into_iter()
                .next()
                .and_then(|v| v.schema)
                .and_then(|s| s.open_api_v3_schema);
            let schema = serde_json::to_value(schema).unwrap_or_default();
            Compiled {
                rules: compile_schema(&schema),
                spec: schema["properties"]["spec"].clone(),
            }
        })
    }

    /// Holds an object against the bounds of its fields and the rules that speak of one object alone.
    ///
    /// # Errors
    /// One sentence per broken rule or bound, with the field's path first.
    pub fn check(&self, object: &impl Serialize) -> Result<(), Vec<String>> {
        let object = serde_json::to_value(object).map_err(|e| vec![e.to_string()])?;
        let compiled = self.compiled();
        let mut broken = exceeded(&compiled.spec, &object["spec"], "spec");
        if let Err(errors) = Validator::new().validate_compiled(&compiled.rules, &object, None) {
            broken.extend(errors.iter().map(|e| format!("{}: {}", e.field_path, e.message)));
        }
        if broken.is_empty() { Ok(()) } else { Err(broken) }
    }
}
