// Package deploy checks what operators install: the Kubernetes manifests and
// the systemd units of compose/, against compose.yaml, against the types and
// rules of Kubernetes and systemd themselves, and by running the programs as
// the kubelet and systemd would.
//
// It builds the programs itself, static as in the images, and imports nothing
// of theirs. What needs root (mounts, other uids, a systemd of its own) is done
// as root or by `sudo -n`; where neither can be had, those tests fail if
// DEPLOY_TEST_ROOT=required, as in CI, and are skipped with a note if not.
package deploy
