#![doc = include_str!("guide.md")]

#[doc = include_str!("start.md")]
pub mod start {}

#[doc = include_str!("layers.md")]
pub mod layers {}

#[doc = include_str!("shutdown.md")]
pub mod shutdown {}

#[cfg(feature = "resume")]
#[doc = include_str!("resume.md")]
pub mod resume {}

#[doc = include_str!("proxies.md")]
pub mod proxies {}

#[doc = include_str!("clouds.md")]
pub mod clouds {}

#[doc = include_str!("llm.md")]
pub mod llm {}

#[doc = include_str!("clients.md")]
pub mod clients {}

#[doc = include_str!("troubleshooting.md")]
pub mod troubleshooting {}
