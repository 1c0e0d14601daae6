package containers

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

// The demo, as the README has it: keys exchange themselves, one device comes
// online, nothing is published, and a second start finds the same keys. The
// project of the pair itself starts neither a key exchange nor a device.
func TestDemo(t *testing.T) {
	t.Parallel()
	project := testProject(t)
	actual := newPair(project)
	if services := strings.Fields(actual.compose(t, "config", "--services")); len(services) != 2 || !slices.Contains(services, acceptor) || !slices.Contains(services, frontend) {
		t.Errorf("compose.yaml alone has the services %v", services)
	}
	demo := newPair(project+"-demo", "demo.yaml")
	m := openManual(t)
	up := m.line(t, "demo.yaml up")
	must(t, demo.shell(t, up+" --wait"))

	attachLine := strings.Fields(m.line(t, "demo.yaml exec"))
	eventually(t, soon, "the README's line shows the device as up", func() error {
		out, err := output(demo.shell(t, strings.Join(attachLine, " ")))
		if err == nil && !strings.Contains(out, "up") {
			t.Log(out)
			return errors.New("not yet")
		}
		return err
	})
	attach := append(slices.Clone(attachLine[:len(attachLine)-1]), "attach")
	if got := demo.mustAttach(t, attach).mustRun(t, "demo-device", "hostname"); got != "demo-device" {
		t.Errorf("hostname: got %q, want demo-device", got)
	}
	for _, service := range []string{acceptor, frontend, "device"} {
		if published := demo.inspect(t, service).HostConfig.PortBindings; len(published) > 0 {
			t.Errorf("%s publishes %v", service, published)
		}
	}

	hostKey, gatewayKey := demo.hostKey(t), demo.gatewayKey(t)
	demo.compose(t, "down")
	must(t, demo.shell(t, up))
	if demo.hostKey(t) != hostKey || demo.gatewayKey(t) != gatewayKey {
		t.Error("a second start of the demo made other keys")
	}
	eventually(t, soon, "the device works again", func() error {
		c, err := demo.attach(t, attach)
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
		result, err := c.run(t.Context(), "demo-device", "true")
		if err == nil {
			err = result.failure()
		}
		return err
	})
	demo.compose(t, "down", "-v")
	m.allRun(t, compositionOfDemo)
}
