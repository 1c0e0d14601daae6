package containers

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// revision is what compose-test stamps the images with.
const revision = "0123456789abcdef0123456789abcdef01234567"

// maxImageMB is what an image may weigh, in 10^6 bytes, as docker prints it.
const maxImageMB = 20

// An image says what it is and what it was built from, is small, and holds byte
// for byte what `make build` makes elsewhere, with another build cache.
func (p *pair) testImages(t *testing.T) {
	for _, service := range []string{acceptor, frontend} {
		want := map[string]string{
			"org.opencontainers.image.title":    service,
			"org.opencontainers.image.version":  p.version,
			"org.opencontainers.image.revision": revision,
			"org.opencontainers.image.source":   "https://github.com/mcp-ssh-gateway/mcp-ssh-gateway",
			"org.opencontainers.image.licenses": "Apache-2.0",
		}
		got := p.inspect(t, service).Config.Labels
		for name := range got {
			if !strings.HasPrefix(name, "org.opencontainers.image.") {
				delete(got, name) // compose's own
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("labels of %s (-want +got):\n%s", service, diff)
		}

		built, inImage := program(service), p.copyOut(t, service, "/"+service)
		if read(t, built) != read(t, inImage) {
			t.Errorf("%s in the image differs from make build's", service)
		}
		p.testModules(t, service, inImage)

		image := "mcp-ssh-gateway/" + service + ":" + p.version
		size, err := strconv.ParseFloat(docker(t, "image", "inspect", "-f", "{{.Size}}", image), 64)
		if err != nil || size/1e6 > maxImageMB {
			t.Errorf("%s has %.1f MB (%v), want at most %d", image, size/1e6, err, maxImageMB)
		}
		t.Logf("%s has %.1f MB", image, size/1e6)
	}
}

// testModules compares /sbom.txt with the program that lies beside it.
func (p *pair) testModules(t *testing.T, service, inImage string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "version", "-m", service)
	cmd.Dir = filepath.Dir(inImage)
	if err := os.Chmod(inImage, 0o700); err != nil {
		t.Fatal(err)
	}
	want := must(t, cmd)
	got := strings.TrimSuffix(read(t, p.copyOut(t, service, "/sbom.txt")), "\n")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("/sbom.txt of %s (-go version -m +got):\n%s", service, diff)
	}
	if !strings.Contains(got, "\tdep\tgolang.org/x/crypto\tv") {
		t.Errorf("/sbom.txt of %s names no golang.org/x/crypto:\n%s", service, got)
	}
}
