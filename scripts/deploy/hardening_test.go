package deploy

import (
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"sigs.k8s.io/yaml"
)

// facts are what must hold of one program's container wherever it runs.
type facts struct {
	Image          string // without its tag
	UID, GID       int64
	Args           []string
	Env            map[string]string
	ReadOnlyRoot   bool
	NoNewPrivs     bool
	DroppedCaps    []string
	MemoryMiB      int64
	Grace          time.Duration // between SIGTERM and SIGKILL
	Ports          []string      // that others can connect to
	Health         []string
	ReadOnlyMounts []string
}

// hardening is the one table for both ways to run the containers. SOCKETS
// stands for the acceptor's directory: in a pod, it is one inside the volume.
var hardening = map[string]facts{
	"tunnel-acceptor": {
		Image: "mcp-ssh-gateway/tunnel-acceptor", UID: 65532, GID: 65532, Args: []string{"serve"},
		Env: map[string]string{
			"TUNNEL_ACCEPTOR_AUTHORIZED_KEYS": "/etc/mcp-ssh-gateway/authorized_keys",
			"TUNNEL_ACCEPTOR_RUN_DIR":         "SOCKETS",
			"TUNNEL_ACCEPTOR_ALLOW_UID":       "65533",
		},
		ReadOnlyRoot: true, NoNewPrivs: true, DroppedCaps: []string{"ALL"}, MemoryMiB: 512, Grace: 20 * time.Second,
		Ports: []string{"2222"}, Health: []string{"/tunnel-acceptor", "healthcheck"},
		ReadOnlyMounts: []string{"/etc/mcp-ssh-gateway"},
	},
	"mcp-frontend": {
		Image: "mcp-ssh-gateway/mcp-frontend", UID: 65533, GID: 65532, Args: []string{"serve"},
		Env: map[string]string{
			"MCP_FRONTEND_CONNECTIONS":     "/etc/mcp-ssh-gateway/connections.json",
			"MCP_FRONTEND_KNOWN_HOSTS":     "/etc/mcp-ssh-gateway/known_hosts",
			"MCP_FRONTEND_ACCEPTOR_DIR":    "SOCKETS",
			"MCP_FRONTEND_MCP_SOCKET":      "/run/fe/mcp.sock",
			"MCP_FRONTEND_OPERATOR_SOCKET": "/run/fe/operator.sock",
			"MCP_FRONTEND_AUDIT_LOG":       "/data/audit.jsonl",
			"MCP_FRONTEND_TRANSFER_DIR":    "/data/transfers",
			"MCP_FRONTEND_STATE_DIR":       "/data/state",
			"MCP_FRONTEND_KEYS_DIR":        "/data/keys",
		},
		ReadOnlyRoot: true, NoNewPrivs: true, DroppedCaps: []string{"ALL"}, MemoryMiB: 512, Grace: 20 * time.Second,
		Health:         []string{"/mcp-frontend", "healthcheck"},
		ReadOnlyMounts: []string{"/etc/mcp-ssh-gateway", "/run/gw"},
	},
}

// The containers are confined in the same way by compose and by Kubernetes.
func TestHardening(t *testing.T) {
	t.Parallel()
	kubernetes := base(t)
	for _, program := range programs {
		if diff := cmp.Diff(hardening[program], composeFacts(t, program)); diff != "" {
			t.Errorf("compose.yaml, %s: want (-), got (+):\n%s", program, diff)
		}
		if diff := cmp.Diff(hardening[program], kubernetesFacts(t, kubernetes, program)); diff != "" {
			t.Errorf("compose/kubernetes/base, %s: want (-), got (+):\n%s", program, diff)
		}
	}
}

// composeService is what the test reads of a service of compose.yaml.
type composeService struct {
	Image           string            `json:"image"`
	User            string            `json:"user"`
	Command         []string          `json:"command"`
	Environment     map[string]string `json:"environment"`
	ReadOnly        bool              `json:"read_only"`
	SecurityOpt     []string          `json:"security_opt"`
	CapDrop         []string          `json:"cap_drop"`
	CapAdd          []string          `json:"cap_add"`
	MemLimit        string            `json:"mem_limit"`
	StopGracePeriod string            `json:"stop_grace_period"`
	Ports           []string          `json:"ports"`
	Volumes         []string          `json:"volumes"`
	Healthcheck     struct {
		Test []string `json:"test"`
	} `json:"healthcheck"`
}

func composeFacts(t *testing.T, program string) facts {
	t.Helper()
	var file struct {
		Services map[string]composeService `json:"services"`
	}
	if err := yaml.Unmarshal([]byte(read(t, "compose", "compose.yaml")), &file); err != nil {
		t.Fatal(err)
	}
	s := file.Services[program]
	image, _, _ := strings.Cut(s.Image, ":")
	uid, gid, _ := strings.Cut(s.User, ":")
	grace, err := time.ParseDuration(s.StopGracePeriod)
	if err != nil {
		t.Errorf("%s: stop_grace_period: %v", program, err)
	}
	f := facts{
		Image: image, UID: number(t, uid), GID: number(t, gid), Args: s.Command, Env: withSockets(s.Environment, "/run/gw"),
		ReadOnlyRoot: s.ReadOnly, NoNewPrivs: slices.Contains(s.SecurityOpt, "no-new-privileges:true"), DroppedCaps: s.CapDrop,
		MemoryMiB: number(t, strings.TrimSuffix(s.MemLimit, "m")), Grace: grace,
	}
	if len(s.CapAdd) > 0 {
		f.DroppedCaps = nil
	}
	if len(s.Healthcheck.Test) > 0 {
		f.Health = s.Healthcheck.Test[1:] // after CMD
	}
	for _, port := range s.Ports {
		f.Ports = append(f.Ports, port[strings.LastIndex(port, ":")+1:])
	}
	for _, volume := range s.Volumes {
		if path, ok := strings.CutSuffix(volume, ":ro"); ok {
			f.ReadOnlyMounts = append(f.ReadOnlyMounts, path[strings.LastIndex(path, ":")+1:])
		}
	}
	return f
}

func kubernetesFacts(t *testing.T, c *cluster, program string) facts {
	t.Helper()
	pod := c.sets["gateway"].Spec.Template.Spec
	container := containerOf(t, c, program)
	image, _, _ := strings.Cut(container.Image, ":")
	security := container.SecurityContext
	memory := container.Resources.Limits[corev1.ResourceMemory]
	mebibyte := resource.MustParse("1Mi")
	f := facts{
		Image: image, UID: *security.RunAsUser, GID: *pod.SecurityContext.RunAsGroup, Args: container.Args,
		ReadOnlyRoot: *security.ReadOnlyRootFilesystem, NoNewPrivs: !*security.AllowPrivilegeEscalation,
		MemoryMiB: memory.Value() / mebibyte.Value(), Grace: time.Duration(*pod.TerminationGracePeriodSeconds) * time.Second,
		Health: container.LivenessProbe.Exec.Command,
	}
	env := make(map[string]string)
	for _, variable := range container.Env {
		env[variable.Name] = variable.Value
	}
	f.Env = withSockets(env, "/run/gw/acceptor")
	if len(security.Capabilities.Add) == 0 {
		for _, capability := range security.Capabilities.Drop {
			f.DroppedCaps = append(f.DroppedCaps, string(capability))
		}
	}
	for _, port := range container.Ports {
		f.Ports = append(f.Ports, strconv.Itoa(int(port.ContainerPort)))
	}
	for _, mount := range container.VolumeMounts {
		if mount.ReadOnly {
			f.ReadOnlyMounts = append(f.ReadOnlyMounts, mount.MountPath)
		}
	}
	return f
}

func containerOf(t *testing.T, c *cluster, name string) corev1.Container {
	t.Helper()
	containers := c.sets["gateway"].Spec.Template.Spec.Containers
	i := slices.IndexFunc(containers, func(container corev1.Container) bool { return container.Name == name })
	if i < 0 || len(containers) != len(programs) {
		t.Fatalf("%d containers, want the two programs", len(containers))
	}
	return containers[i]
}

func withSockets(env map[string]string, dir string) map[string]string {
	for name, value := range env {
		if value == dir {
			env[name] = "SOCKETS"
		}
	}
	return env
}

func number(t *testing.T, text string) int64 {
	t.Helper()
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		t.Errorf("reading compose.yaml: %v", err)
	}
	return n
}

// What only a pod has: it is alone, knows nothing of its cluster, and its
// volumes have the shapes that the programs need.
func TestPod(t *testing.T) {
	t.Parallel()
	for name, c := range every(t) {
		set := c.sets["gateway"]
		pod := set.Spec.Template.Spec
		security := pod.SecurityContext
		switch {
		case *set.Spec.Replicas != 1:
			t.Errorf("%s: %d replicas: two pods would claim one host key and one audit trail", name, *set.Spec.Replicas)
		case *pod.AutomountServiceAccountToken || *pod.EnableServiceLinks:
			t.Errorf("%s: the pod is told of its cluster", name)
		case pod.HostNetwork || pod.HostPID || pod.HostIPC || pod.ShareProcessNamespace != nil:
			t.Errorf("%s: the pod shares more than its network", name)
		case *security.FSGroup != 65532 || *security.FSGroupChangePolicy != corev1.FSGroupChangeOnRootMismatch:
			t.Errorf("%s: the volumes' group, or when it is set: each mount would make the keys readable by the group", name)
		}
		for _, volume := range pod.Volumes {
			if volume.EmptyDir != nil && (volume.EmptyDir.Medium != corev1.StorageMediumMemory || volume.EmptyDir.SizeLimit == nil) {
				t.Errorf("%s: volume %s is not in memory, or has no limit", name, volume.Name)
			}
		}
		service := c.services["gateway"].Spec
		if service.ExternalTrafficPolicy != corev1.ServiceExternalTrafficPolicyLocal || !service.PublishNotReadyAddresses {
			t.Errorf("%s: the Service hides the devices' addresses, or keeps devices out while the frontend restarts", name)
		}
		for _, program := range programs {
			limits := containerOf(t, c, program).Resources.Limits
			if limits.Memory().IsZero() || limits.StorageEphemeral().IsZero() {
				t.Errorf("%s: %s has no limits", name, program)
			}
			for _, mount := range containerOf(t, c, program).VolumeMounts {
				if other := map[string]string{"tunnel-acceptor": "frontend-data", "mcp-frontend": "acceptor-data"}[program]; mount.Name == other {
					t.Errorf("%s: %s mounts the other's data", name, program)
				}
			}
		}
	}
}

// inPod is a command in a container, as the READMEs give it.
var inPod = regexp.MustCompile(`exec (?:-i )?(\S+)-0 -c (\S+) -- /(\S+) ([a-z]+(?: (?:public|import)\b)?)`)

// What an operator is told to run in the pod is there.
func TestReadmesNameWhatIsInThePod(t *testing.T) {
	t.Parallel()
	c := base(t)
	text := read(t, "README.md") + read(t, "compose", "kubernetes", "README.md")
	commands := inPod.FindAllStringSubmatch(text, -1)
	if len(commands) < 4 || len(commands) != strings.Count(text, " -c mcp-frontend -- ") {
		t.Errorf("%d commands in the pod were found: %v", len(commands), commands)
	}
	for _, command := range commands {
		if c.sets[command[1]] == nil || command[2] != command[3] {
			t.Errorf("no pod or container for %v", command)
		}
		containerOf(t, c, command[2])
		help(t, command[3], strings.Fields(command[4])...)
	}
}

// A flag or variable of the manifests that the programs do not have would do
// nothing; and each program's drain fits into the time it is given.
func TestManifestsSayWhatProgramsUnderstand(t *testing.T) {
	t.Parallel()
	for name, c := range every(t) {
		pod := c.sets["gateway"].Spec.Template.Spec
		for _, container := range slices.Concat(pod.InitContainers, pod.Containers) {
			program := filepath.Base(container.Image[:strings.LastIndex(container.Image, ":")])
			text := help(t, program, container.Args...)
			for _, variable := range container.Env {
				if !strings.Contains(text, "($"+variable.Name+")") {
					t.Errorf("%s: %s does not read %s", name, program, variable.Name)
				}
			}
			probes := []*corev1.Probe{container.StartupProbe, container.ReadinessProbe, container.LivenessProbe}
			for _, probe := range probes {
				if probe != nil {
					help(t, strings.TrimPrefix(probe.Exec.Command[0], "/"), probe.Exec.Command[1:]...)
				}
			}
		}
		if text := help(t, "tunnel-acceptor", "serve"); !strings.Contains(text, "--drain-timeout=10s") || *pod.TerminationGracePeriodSeconds <= 10 {
			t.Errorf("%s: the pod is killed after %d s, before the acceptor's drain is over", name, *pod.TerminationGracePeriodSeconds)
		}
	}
}
