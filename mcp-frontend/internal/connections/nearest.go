package connections

import (
	"cmp"
	"slices"
	"strings"
)

// nearest returns at most limit candidates that name may be a misspelling of,
// nearest first and else in their own order. Case does not count; more than
// one mistake in three characters is another word.
func nearest(name string, candidates []string, limit int) []string {
	type ranked struct {
		name     string
		distance int
	}
	var found []ranked
	wanted := []rune(strings.ToLower(name))
	for _, candidate := range candidates {
		runes := []rune(strings.ToLower(candidate))
		most := max(1, max(len(wanted), len(runes))/3)
		// The lengths alone often tell; a very long name is never measured.
		if max(len(wanted)-len(runes), len(runes)-len(wanted)) > most {
			continue
		}
		if distance := editDistance(wanted, runes); distance <= most {
			found = append(found, ranked{candidate, distance})
		}
	}
	slices.SortStableFunc(found, func(a, b ranked) int { return cmp.Compare(a.distance, b.distance) })
	var names []string
	for _, one := range found[:min(limit, len(found))] {
		names = append(names, one.name)
	}
	return names
}

// editDistance counts insertions, deletions, substitutions and swaps of
// neighbours (optimal string alignment), since swaps are what fingers do.
func editDistance(a, b []rune) int {
	var before []int // the row above the row above
	above := make([]int, len(b)+1)
	for j := range above {
		above[j] = j
	}
	for i := range a {
		row := make([]int, len(b)+1)
		row[0] = i + 1
		for j := range b {
			substitution := above[j]
			if a[i] != b[j] {
				substitution++
			}
			row[j+1] = min(substitution, above[j+1]+1, row[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
		before, above = above, row
	}
	return above[len(b)]
}
