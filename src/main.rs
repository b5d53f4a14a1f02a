fn main() {
    for crd in valet::api::crds() {
        println!("---\n{}", serde_yaml::to_string(&crd).unwrap());
    }
}
