//! Everything that is tested through the public API, in one binary: goldens, laws, hostile bytes.

mod support;

mod budget;
mod exact;
mod goldens;
//mod hostile;
//mod laws;
//mod normal_form;
