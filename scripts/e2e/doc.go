// Package e2e proves the whole system from the outside: the two built
// binaries, Debian's own sshd and ssh, and an MCP client that is not ours (the
// official go-sdk). It imports nothing of this repository, so what it knows of
// the programs is what their users know: flags, files, fields, errors, exit
// codes.
//
// It promises that nothing is skipped (a missing tool is a failure that names
// scripts/setup), that every listener is on the loopback interface, and that
// every process it started is gone when its test ends. The binaries come from
// the directory that E2E_BIN names, or from bin/ at the repository's root, or
// are built when neither is there.
//
// It assumes Linux. As root it logs in to its devices as root and as the user
// e2e-user, whom it adds to the system; as anybody else it logs in as that
// user, and the few cases that only root can set up are left out with a note.
package e2e
