//! How a command ends when it does not succeed.

/// Exit codes of etcdctl.
pub const ERROR: i32 = 1;
pub const BAD_CONNECTION: i32 = 2;
pub const INVALID_INPUT: i32 = 3;
pub const BAD_FEATURE: i32 = 4;
pub const INTERRUPTED: i32 = 5;
pub const BAD_ARGS: i32 = 128;

/// An exit code with the text that follows `Error: ` on stderr; an empty text prints nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub code: i32,
    pub text: String,
}

impl Failure {
    pub fn new(code: i32, text: impl Into<String>) -> Failure {
        Failure {
            code,
            text: text.into(),
        }
    }

    pub fn args(text: impl Into<String>) -> Failure {
        Failure::new(BAD_ARGS, text)
    }

    pub fn error(text: impl Into<String>) -> Failure {
        Failure::new(ERROR, text)
    }

    /// A code alone, after everything was printed.
    pub fn silent(code: i32) -> Failure {
        Failure::new(code, "")
    }

    pub fn report(&self) -> i32 {
        if !self.text.is_empty() {
            eprintln!("Error: {}", self.text);
        }
        self.code
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Failure {
        Failure::error(error.to_string())
    }
}
