#include "cli/cli.h"

int main(int argc, char** argv) { return fourfold::cli::run(argc, argv); }
