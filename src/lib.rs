//! valet
pub mod api;
pub mod grant;
