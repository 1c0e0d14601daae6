package deploy

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/api/types"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

const kubernetesDir = "../../compose/kubernetes"

// cluster is what a kustomization makes.
type cluster struct {
	sets      map[string]*appsv1.StatefulSet
	services  map[string]*corev1.Service
	accounts  map[string]*corev1.ServiceAccount
	spaces    map[string]*corev1.Namespace
	configs   map[string]*corev1.ConfigMap
	policies  map[string]*networkingv1.NetworkPolicy
	documents int
}

// add decodes one document, and refuses fields that the kind does not have.
func (c *cluster) add(document []byte) error {
	var kind struct {
		Kind     string
		Metadata struct{ Name string }
	}
	if err := yaml.Unmarshal(document, &kind); err != nil {
		return err
	}
	c.documents++
	name := kind.Metadata.Name
	var object any
	switch kind.Kind {
	case "StatefulSet":
		c.sets[name] = new(appsv1.StatefulSet)
		object = c.sets[name]
	case "Service":
		c.services[name] = new(corev1.Service)
		object = c.services[name]
	case "ServiceAccount":
		c.accounts[name] = new(corev1.ServiceAccount)
		object = c.accounts[name]
	case "Namespace":
		c.spaces[name] = new(corev1.Namespace)
		object = c.spaces[name]
	case "ConfigMap":
		c.configs[name] = new(corev1.ConfigMap)
		object = c.configs[name]
	case "NetworkPolicy":
		c.policies[name] = new(networkingv1.NetworkPolicy)
		object = c.policies[name]
	case "Kustomization":
		object = new(types.Kustomization)
	case "Component":
		object = new(types.Kustomization)
	}
	return yaml.UnmarshalStrict(document, object)
}

func newCluster() *cluster {
	return &cluster{
		sets: map[string]*appsv1.StatefulSet{}, services: map[string]*corev1.Service{}, accounts: map[string]*corev1.ServiceAccount{},
		spaces: map[string]*corev1.Namespace{}, configs: map[string]*corev1.ConfigMap{}, policies: map[string]*networkingv1.NetworkPolicy{},
	}
}

// kustomize builds what stands in dir, as `kubectl apply -k` does.
func kustomize(t *testing.T, files filesys.FileSystem, dir string) *cluster {
	t.Helper()
	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(files, dir)
	if err != nil {
		t.Fatalf("building %s: %v", dir, err)
	}
	c := newCluster()
	for _, resource := range built.Resources() {
		document, err := resource.AsYAML()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.add(document); err != nil {
			t.Errorf("%s: %v\n%s", resource.CurId(), err, document)
		}
	}
	return c
}

// overlay builds the kustomization that the README gives to an operator, with
// the operator's own files beside it.
func overlay(t *testing.T) *cluster {
	t.Helper()
	files := filesys.MakeFsInMemory()
	err := filepath.WalkDir(kubernetesDir, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		inside, err := filepath.Rel(kubernetesDir, path)
		if err != nil {
			return err
		}
		return files.WriteFile("/kubernetes/"+inside, text)
	})
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(read(t, "compose", "kubernetes", "README.md"), "<!-- kustomization.yaml -->\n```yaml\n")
	block, _, ended := strings.Cut(rest, "```")
	if !found || !ended {
		t.Fatal("compose/kubernetes/README.md has no YAML block after <!-- kustomization.yaml -->")
	}
	own := map[string]string{"kustomization.yaml": block, "authorized_keys": "mine", "connections.json": "mine", "known_hosts": "mine"}
	for name, text := range own {
		if err := files.WriteFile("/kubernetes/my-gateway/"+name, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	return kustomize(t, files, "/kubernetes/my-gateway")
}

func base(t *testing.T) *cluster {
	t.Helper()
	return kustomize(t, filesys.MakeFsOnDisk(), filepath.Join(kubernetesDir, "base"))
}

// every is each way to install the pair that we offer.
func every(t *testing.T) map[string]*cluster {
	t.Helper()
	return map[string]*cluster{
		"base":                       base(t),
		"direct":                     kustomize(t, filesys.MakeFsOnDisk(), filepath.Join(kubernetesDir, "direct")),
		"the README's kustomization": overlay(t),
	}
}

// A field that Kubernetes does not know would be dropped, and with it perhaps
// the confinement that it stands for. No file lies there unused.
func TestManifestsHaveNoUnknownField(t *testing.T) {
	t.Parallel()
	all := newCluster()
	for _, dir := range []string{"base", "direct", "secret-keys"} {
		listed := []string{"kustomization.yaml"}
		var k types.Kustomization
		if err := yaml.UnmarshalStrict([]byte(read(t, "compose", "kubernetes", dir, "kustomization.yaml")), &k); err != nil {
			t.Errorf("%s: %v", dir, err)
		}
		for _, name := range k.Resources {
			if !strings.HasPrefix(name, "../") {
				listed = append(listed, name)
			}
		}
		for _, patch := range k.Patches {
			listed = append(listed, patch.Path)
		}
		for _, generator := range k.ConfigMapGenerator {
			listed = append(listed, generator.FileSources...)
		}
		var present []string
		err := filepath.WalkDir(filepath.Join(kubernetesDir, dir), func(path string, entry os.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				return err
			}
			inside, err := filepath.Rel(filepath.Join(kubernetesDir, dir), path)
			present = append(present, inside)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(listed)
		slices.Sort(present)
		if diff := cmp.Diff(present, listed); diff != "" {
			t.Errorf("%s: files that are there (-) and files that its kustomization names (+):\n%s", dir, diff)
		}
		for _, name := range present {
			if filepath.Ext(name) != ".yaml" {
				continue
			}
			for document := range bytes.SplitSeq([]byte(read(t, "compose", "kubernetes", dir, name)), []byte("\n---\n")) {
				if err := all.add(document); err != nil {
					t.Errorf("%s/%s: %v", dir, name, err)
				}
			}
		}
	}
	if all.documents != 11 {
		t.Errorf("%d documents, want 11", all.documents)
	}
}

// The check is the API server's own, for a namespace that enforces
// "restricted"; and the namespace does.
func TestPodsAreRestricted(t *testing.T) {
	t.Parallel()
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		t.Fatal(err)
	}
	restricted := api.LevelVersion{Level: api.LevelRestricted, Version: api.LatestVersion()}
	for name, c := range every(t) {
		template := c.sets["gateway"].Spec.Template
		if result := policy.AggregateCheckResults(evaluator.EvaluatePod(restricted, &template.ObjectMeta, &template.Spec)); !result.Allowed {
			t.Errorf("%s: forbidden: %s", name, result.ForbiddenDetail())
		}
		if level := c.spaces["mcp-ssh-gateway"].Labels[api.EnforceLevelLabel]; level != string(api.LevelRestricted) {
			t.Errorf("%s: the namespace enforces %q", name, level)
		}

		// The check can fail.
		template.Spec.Containers[0].SecurityContext.Capabilities = nil
		if policy.AggregateCheckResults(evaluator.EvaluatePod(restricted, &template.ObjectMeta, &template.Spec)).Allowed {
			t.Errorf("%s: a pod with capabilities is allowed", name)
		}
	}
}

// What names something in these manifests names something that is there.
func TestManifestsFitTogether(t *testing.T) {
	t.Parallel()
	for name, c := range every(t) {
		set := c.sets["gateway"]
		pod := set.Spec.Template
		labels := pod.Labels
		if diff := cmp.Diff(labels, set.Spec.Selector.MatchLabels); diff != "" {
			t.Errorf("%s: the StatefulSet selects other pods than it makes: %s", name, diff)
		}
		if diff := cmp.Diff(labels, c.services["gateway"].Spec.Selector); diff != "" {
			t.Errorf("%s: the Service selects other pods: %s", name, diff)
		}
		if set.Spec.ServiceName != "gateway" || c.accounts[pod.Spec.ServiceAccountName] == nil {
			t.Errorf("%s: no service %q or no account %q", name, set.Spec.ServiceName, pod.Spec.ServiceAccountName)
		}
		volumes := map[string]bool{}
		for _, v := range pod.Spec.Volumes {
			volumes[v.Name] = true
			if v.ConfigMap != nil && c.configs[v.ConfigMap.Name] == nil {
				t.Errorf("%s: no ConfigMap %q", name, v.ConfigMap.Name)
			}
		}
		for _, claim := range set.Spec.VolumeClaimTemplates {
			volumes[claim.Name] = true
		}
		for _, container := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
			for _, mount := range container.VolumeMounts {
				if !volumes[mount.Name] {
					t.Errorf("%s: %s mounts %q, which is no volume", name, container.Name, mount.Name)
				}
			}
		}
		for _, policy := range c.policies {
			if selector := policy.Spec.PodSelector.MatchLabels; len(selector) > 0 && !cmp.Equal(labels, selector) {
				t.Errorf("%s: policy %s selects other pods: %v", name, policy.Name, selector)
			}
			if policy.Namespace != set.Namespace {
				t.Errorf("%s: policy %s is in namespace %q, the pod in %q", name, policy.Name, policy.Namespace, set.Namespace)
			}
		}
		if port := c.services["gateway"].Spec.Ports; len(port) != 1 || port[0].TargetPort.StrVal != containerOf(t, c, "tunnel-acceptor").Ports[0].Name {
			t.Errorf("%s: the Service leads to another port than the acceptor's one: %v", name, port)
		}
	}
}

// The configuration that the manifests begin with is compose's, and an
// operator's own takes its place, with the operator's images.
func TestConfigurationAndImages(t *testing.T) {
	t.Parallel()
	want := map[string]string{}
	for _, name := range []string{"authorized_keys", "connections.json", "known_hosts"} {
		want[name] = read(t, "compose", "config", name)
	}
	if diff := cmp.Diff(want, base(t).configs["gateway-config"].Data); diff != "" {
		t.Errorf("base/config differs from compose/config: %s", diff)
	}

	own := overlay(t)
	if diff := cmp.Diff(map[string]string{"authorized_keys": "mine", "connections.json": "mine", "known_hosts": "mine"}, own.configs["gateway-config"].Data); diff != "" {
		t.Errorf("the README's kustomization keeps the base's configuration: %s", diff)
	}
	spec := own.sets["gateway"].Spec.Template.Spec
	for _, container := range slices.Concat(spec.InitContainers, spec.Containers) {
		if !strings.HasPrefix(container.Image, "registry.example.org/") {
			t.Errorf("%s: image %s, not the operator's", container.Name, container.Image)
		}
	}
	if len(spec.InitContainers) != 1 {
		t.Errorf("%d init containers, want the one that imports the key", len(spec.InitContainers))
	}
}

// What is in the network policies is all that can pass: devices in, and with
// direct/ the frontend (and, as they share a network, the acceptor) out to SSH
// ports and the name server.
func TestOnlySSHPasses(t *testing.T) {
	t.Parallel()
	for name, c := range every(t) {
		var in, out []string
		for _, policy := range c.policies {
			for _, rule := range policy.Spec.Ingress {
				for _, port := range rule.Ports {
					in = append(in, string(*port.Protocol)+port.Port.String())
				}
				if len(rule.Ports) == 0 {
					in = append(in, "everything")
				}
			}
			for _, rule := range policy.Spec.Egress {
				for _, port := range rule.Ports {
					out = append(out, string(*port.Protocol)+port.Port.String())
				}
				if len(rule.Ports) == 0 || len(rule.To) == 0 {
					out = append(out, "everything")
				}
			}
		}
		slices.Sort(out)
		var wantOut []string
		if name == "direct" {
			wantOut = []string{"TCP22", "TCP53", "UDP53"}
		}
		if !slices.Equal(in, []string{"TCP2222"}) || !slices.Equal(out, wantOut) {
			t.Errorf("%s: in %v, out %v, want in TCP2222, out %v", name, in, out, wantOut)
		}
		closed := c.policies["nothing"].Spec
		if len(closed.PodSelector.MatchLabels)+len(closed.PodSelector.MatchExpressions) > 0 || len(closed.PolicyTypes) != 2 || closed.Ingress != nil || closed.Egress != nil {
			t.Errorf("%s: the policy that denies by default does not: %+v", name, closed)
		}
	}
}
