//! Tests of a running operator whose API server is down, is restored from an earlier backup, or gets another
//! certificate. Each test has its own control plane, because these faults would break other tests.

mod authority;
mod etcd_restore;
mod logs;
mod recovery;
mod world;
