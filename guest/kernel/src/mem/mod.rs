//! Memory: physical frames, page tables, address spaces and the application's memory as the kernel sees it.

pub mod area;
pub mod frames;
pub mod large_file;
pub mod pager;
pub mod paging;
pub mod space;
pub mod user;

#[cfg(test)]
mod layer_tests;
#[cfg(test)]
mod tests;
