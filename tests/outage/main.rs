//! The apiserver goes away and comes back, is set back to an earlier state, or has another certificate: under a running operator.
//! A control plane of its own for each test, since the other tests would not like this.

mod authority;
mod comes_back;
mod noise;
mod set_back;
mod world;
