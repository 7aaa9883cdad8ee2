pub fn replay() {}
