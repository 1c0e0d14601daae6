package policy

import (
	"errors"
	"fmt"
	"path"
	"regexp"
	"strings"
)

// ReadPath judges a path that SFTP is to read: absolute, without symlinks.
func (p *Policy) ReadPath(name string) Verdict {
	p = p.orNone()
	return p.path("read_paths", p.readPaths, name)
}

// WritePath judges a path that SFTP is to write, create or replace: absolute,
// without symlinks. What decides who may log in and what runs at login is
// never writable, in whatever case it is written.
func (p *Policy) WritePath(name string) Verdict {
	p = p.orNone()
	verdict := p.path("write_paths", p.writePaths, name)
	if verdict.Decision == Allow && startup.MatchString(strings.ToLower(name)) {
		return refuse("never writable", 0, "%s holds login keys or is run when a shell starts; an operator must change it", show(name)).verdict()
	}
	return verdict
}

// startup is compared in lower case: some file systems ignore it.
var startup = regexp.MustCompile(`/\.ssh(2)?(/|$)|/authorized_keys2?$|^/etc/ssh/sshrc$|` +
	`/\.(profile|login|logout|shrc|kshrc|mkshrc|cshrc|tcshrc|bashrc|bash_(profile|login|logout|aliases|env)|z(shrc|shenv|profile|login|logout)|environment|pam_environment|inputrc|xprofile|xsessionrc)(/|\.d/|\.zwc|$)|` +
	`/\.bashrc\.d(/|$)|/\.config/(fish|environment\.d)(/|$)|/\.local/share/fish(/|$)|/\.zsh/|` +
	`^/etc/(profile|profile\.d|bash\.bashrc|bash\.bash_logout|bashrc|bash|environment|environment\.d|zsh|zshrc|zshenv|zprofile|zlogin|zlogout|fish|csh\..*|shinit|mkshrc|ksh\.kshrc|skel)(/|$)`)

func (p *Policy) path(list string, roots List, name string) Verdict {
	switch {
	case !strings.HasPrefix(name, "/"), path.Clean(name) != name, len(name) > maxPath, strings.ContainsRune(name, 0):
		return refuse(list, 0, "%s is no absolute path without .. and without a slash too many", show(name)).verdict()
	case roots.Present:
		for _, root := range roots.Items {
			if within(path.Clean(root), name) {
				return Verdict{Decision: Allow, Rule: fmt.Sprintf("%s: %q", list, root)}
			}
		}
		return refuse(list, 0, "%s is below none of the policy's %s; the resource ssh://policy/NAME lists them", show(name), list).verdict()
	case p.restricted():
		return refuse(list, 0, "the policy restricts commands and has no %s, so that no file may be reached by SFTP either", list).verdict()
	}
	return Verdict{Decision: Allow, Rule: ruleNoPolicy}
}

func within(root, name string) bool {
	return root == "/" || name == root || strings.HasPrefix(name, root+"/")
}

func checkRoots(list string, roots List) error {
	var problems []error
	for _, root := range roots.Items {
		if !strings.HasPrefix(root, "/") || strings.Contains(root+"/", "/../") || strings.ContainsFunc(root, unprintable) {
			problems = append(problems, fmt.Errorf("%s: bad path %q: it must be absolute and hold no .. segment", list, root))
		}
	}
	return errors.Join(problems...)
}
