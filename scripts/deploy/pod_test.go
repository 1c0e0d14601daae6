package deploy

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// pod is the gateway's pod on this machine, without a cluster: the manifests'
// own commands, variables, users, volumes and mounts, on a read-only root that
// holds the program and nothing else.
type pod struct {
	dir    string // of volumes/NAME, root/CONTAINER and log.CONTAINER
	spec   corev1.PodSpec
	claims []string
}

func newPod(t *testing.T, c *cluster) *pod {
	t.Helper()
	asRoot(t, "true")
	dir, err := os.MkdirTemp("", "pod") //nolint:usetesting // what the pod's users own there, only root can remove
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	remove := asRoot(t, "rm", "-rf", dir)
	t.Cleanup(func() {
		if out, err := exec.Command(remove.Args[0], remove.Args[1:]...).CombinedOutput(); err != nil {
			t.Errorf("removing %s: %v\n%s", dir, err, out)
		}
	})
	p := &pod{dir: dir, spec: c.sets["gateway"].Spec.Template.Spec}
	for _, claim := range c.sets["gateway"].Spec.VolumeClaimTemplates {
		p.claims = append(p.claims, claim.Name)
	}
	for _, volume := range p.spec.Volumes {
		mode := os.FileMode(0o755)
		if volume.EmptyDir != nil {
			mode = 0o777 // as the kubelet makes it
		}
		p.volume(t, volume.Name, mode)
	}
	for _, claim := range p.claims {
		p.volume(t, claim, 0o755)
	}
	for name, text := range c.configs["gateway-config"].Data {
		write(t, filepath.Join(dir, "volumes", "config", name), text, 0o644)
	}
	for _, container := range p.containers() {
		program := programOf(container)
		binary, err := os.ReadFile(filepath.Join(binDir, program))
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(p.root(container), program), string(binary), 0o755)
		for _, mount := range container.VolumeMounts {
			if err := os.MkdirAll(filepath.Join(p.root(container), mount.MountPath), 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
	p.scripts(t)
	chown := asRoot(t, "chown", "-R", "0:0", dir) // a volume begins as root's
	if out, err := chown.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return p
}

func (p *pod) containers() []corev1.Container {
	return slices.Concat(p.spec.InitContainers, p.spec.Containers)
}

func (p *pod) root(c corev1.Container) string { return filepath.Join(p.dir, "root", c.Name) }

// programOf is the program in a container's image, which is its entry point.
func programOf(c corev1.Container) string {
	return filepath.Base(c.Image[:strings.LastIndex(c.Image, ":")])
}

func (p *pod) volume(t *testing.T, name string, mode os.FileMode) {
	t.Helper()
	path := filepath.Join(p.dir, "volumes", name)
	if err := os.MkdirAll(path, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

// scripts writes what testdata/pod.sh runs.
func (p *pod) scripts(t *testing.T) {
	t.Helper()
	var mounts, starts, inits strings.Builder
	for _, c := range p.containers() {
		fmt.Fprintf(&mounts, "mount --bind %[1]s %[1]s\nmount -o remount,bind,ro %[1]s\n", p.root(c))
		for _, m := range c.VolumeMounts {
			at := p.root(c) + m.MountPath
			fmt.Fprintf(&mounts, "mount --bind %s %s\n", filepath.Join(p.dir, "volumes", m.Name), at)
			if m.ReadOnly {
				fmt.Fprintf(&mounts, "mount -o remount,bind,ro %s\n", at)
			}
		}
	}
	for _, c := range p.spec.InitContainers {
		fmt.Fprintf(&inits, "%s\n", p.line(c, *c.SecurityContext.RunAsUser, c.Args...))
	}
	for _, c := range p.spec.Containers {
		fmt.Fprintf(&starts, "%s 2>%s/log.%s\n", p.line(c, *c.SecurityContext.RunAsUser, c.Args...), p.dir, c.Name)
	}
	write(t, filepath.Join(p.dir, "mounts"), mounts.String(), 0o644)
	write(t, filepath.Join(p.dir, "init"), inits.String(), 0o644)
	write(t, filepath.Join(p.dir, "containers"), starts.String(), 0o644)
}

// line is the shell command that runs a container's program as uid.
func (p *pod) line(c corev1.Container, uid int64, args ...string) string {
	words := []string{"exec", "env", "-i"}
	if len(p.spec.InitContainers) > 0 && c.Name == p.spec.InitContainers[0].Name {
		words = words[1:]
	}
	for _, v := range c.Env {
		words = append(words, v.Name+"="+v.Value)
	}
	group := *p.spec.SecurityContext.RunAsGroup
	words = append(words, "/usr/bin/setpriv", "--no-new-privs", "/usr/sbin/chroot",
		fmt.Sprintf("--userspec=%d:%d", uid, group), fmt.Sprintf("--groups=%d", *p.spec.SecurityContext.FSGroup), p.root(c), "/"+programOf(c))
	return strings.Join(append(words, args...), " ")
}

// running is a pod that has been started.
type running struct {
	*pod
	pid   string // of a process in the pod's namespaces
	stdin io.Closer
	out   *bufio.Scanner
	cmd   *exec.Cmd
}

// start brings the pod up. change is the fsGroupChangePolicy.
func (p *pod) start(t *testing.T, change corev1.PodFSGroupChangePolicy) *running {
	t.Helper()
	script, err := filepath.Abs("testdata/pod.sh")
	if err != nil {
		t.Fatal(err)
	}
	r := &running{pod: p}
	words := asRoot(t, "unshare", "--mount", "--net", "--propagation", "private",
		"sh", script, p.dir, fmt.Sprint(*p.spec.SecurityContext.FSGroup), string(change)).Args
	// Ended through its input alone: what it started, only it can end.
	r.cmd = exec.Command(words[0], words[1:]...)
	r.cmd.Stderr = t.Output()
	if r.stdin, err = r.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	stdout, err := r.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = r.stdin.Close()
		_ = r.cmd.Wait() // fails if stop has waited
	})
	r.out = bufio.NewScanner(stdout)
	r.pid = r.next(t)
	for line := r.next(t); line != "started"; line = r.next(t) {
		t.Log("init container:", line)
	}
	return r
}

func (r *running) next(t *testing.T) string {
	t.Helper()
	if !r.out.Scan() {
		t.Fatalf("the pod's script ended: %v", r.cmd.Wait())
	}
	return r.out.Text()
}

// stop ends the pod and returns the containers' exit codes.
func (r *running) stop(t *testing.T) string {
	t.Helper()
	_ = r.stdin.Close()
	codes := r.next(t)
	if err := r.cmd.Wait(); err != nil {
		t.Errorf("the pod's script: %v", err)
	}
	return codes
}

// exec runs the container's program with other arguments, as kubectl exec
// does, and returns what it says.
func (r *running) exec(t *testing.T, container corev1.Container, uid int64, args ...string) (string, error) {
	t.Helper()
	line := r.line(container, uid, args...)
	out, err := asRoot(t, "nsenter", "--target="+r.pid, "--mount", "--net", "sh", "-c", line).CombinedOutput()
	return string(out), err
}

// modes lists what is in a directory of the pod.
func (p *pod) modes(t *testing.T, path string) string {
	t.Helper()
	out, err := asRoot(t, "find", filepath.Join(p.dir, path), "-mindepth", "1", "-printf", "%m %U:%G %P\n").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}

// healthy waits for the probes of both containers.
func (r *running) healthy(t *testing.T) {
	t.Helper()
	for _, c := range r.spec.Containers {
		eventually(t, func() string {
			if out, err := r.exec(t, c, *c.SecurityContext.RunAsUser, c.LivenessProbe.Exec.Command[1:]...); err != nil {
				return fmt.Sprintf("%s: %v %s\n%s", c.Name, err, out, r.log(t, c.Name))
			}
			return ""
		})
	}
}

func (p *pod) log(t *testing.T, container string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(p.dir, "log."+container))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
