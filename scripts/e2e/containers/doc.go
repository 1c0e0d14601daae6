// Package containers proves what an operator gets from the files of compose/:
// it starts the pair with docker compose from the repository's own files,
// brings a device container to it (Debian's sshd and `ssh -R`), attaches an
// independent MCP client with the README's words, and reads back what really
// runs: from the engine, from /proc, from the network. Every docker compose
// line of the README is run.
//
// It promises to work in projects of its own beside a real one, and needs what
// scripts/compose-test.sh prepares and removes again: an engine, the compose
// plugin, the base images, bin/. Alone, `go test` leaves it out and says so.
package containers
