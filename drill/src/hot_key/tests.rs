//! Whole runs of the scenario against a cluster in memory.
