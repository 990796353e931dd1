mod processing;
