//! valet
pub mod api;
pub mod grant;
pub mod sign;
pub mod store;
