use std::sync::OnceLock;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::core::cel::{CompiledSchema, Validator, compile_schema};
use serde::Serialize;
use serde_json::Value;

use super::{bounds::exceeded, patterns::Patterns};

thread_local! {
    /// Each evaluation needs a validator with all CEL functions. Valet creates one for each thread, because creating it
    /// takes longer than an evaluation.
    static VALIDATOR: Validator = Validator::new();
}

/// The CEL rules and the schema limits of one kind, as the apiserver enforces them. Valet also checks objects from
/// files, and objects that the apiserver accepted with an older CRD.
///
/// Valet compiles the rules only once, at the first use, because compiling takes longer than the rest of a reconcile.
pub struct Rules {
    definition: fn() -> CustomResourceDefinition,
    compiled: OnceLock<Compiled>,
}

struct Compiled {
    rules: CompiledSchema,
    /// The CEL rules of `spec` that are not in `rules`, because they only compare a text with a regular expression.
    patterns: Patterns,
    /// The schema of `spec`. Valet does not check the status, because Valet writes the status itself.
    spec: Value,
}

impl Rules {
    /// Creates the rules of this CRD.
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
            let mut schema = serde_json::to_value(schema).unwrap_or_default();
            Compiled {
                patterns: Patterns::take(&mut schema["properties"]["spec"]),
                rules: compile_schema(&schema),
                spec: schema["properties"]["spec"].clone(),
            }
        })
    }

    /// Checks an object against the limits of its fields and against the CEL rules. The method skips CEL rules that
    /// compare the object with its previous version (`oldSelf`).
    ///
    /// # Errors
    /// Returns one sentence for each broken rule or limit. A sentence begins with the path of the field.
    pub fn check(&self, object: &impl Serialize) -> Result<(), Vec<String>> {
        let object = serde_json::to_value(object).map_err(|e| vec![e.to_string()])?;
        let compiled = self.compiled();
        let mut broken = exceeded(&compiled.spec, &object["spec"], "spec");
        compiled.patterns.check(&object["spec"], "spec", &mut broken);
        let evaluated = VALIDATOR.with(|validator| validator.validate_compiled(&compiled.rules, &object, None));
        if let Err(errors) = evaluated {
            broken.extend(errors.iter().map(|e| format!("{}: {}", e.field_path, e.message)));
        }
        if broken.is_empty() { Ok(()) } else { Err(broken) }
    }
}
