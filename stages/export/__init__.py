"""After stage three: a student and its teacher as one model, for people who do not have this project."""
