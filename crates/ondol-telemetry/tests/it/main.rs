//! The query language on the test files of Prometheus, the parser on anything; the store of series on
//! crashes, damage and floods; the HTTP API and the scraper over real sockets and with real clients.

mod clients;
mod door;
mod http_query;
mod http_write;
mod limits;
mod memory;
mod names;
mod parser;
mod promqltest;
mod scrape;
mod tsdb;
