import type { Lifecycle } from './catalog.tables.ts';

/** Where a server may go from each state. `approved` and `deprecated` are served; the others are not. */
const transitions: Readonly<Record<Lifecycle, readonly Lifecycle[]>> = {
  draft: ['pending', 'approved'],
  pending: ['draft', 'approved'],
  approved: ['deprecated', 'disabled'],
  deprecated: ['approved', 'disabled'],
  disabled: ['draft', 'approved'],
};

export function isServed(lifecycle: Lifecycle): boolean {
  return lifecycle === 'approved' || lifecycle === 'deprecated';
}

/** Why a server in one state cannot go to another; undefined when it can. */
export function transitionProblem(from: Lifecycle, to: Lifecycle): string | undefined {
  if (transitions[from].includes(to)) return undefined;
  if (from === to) return `the server is ${to} already`;
  return `a server that is ${from} cannot become ${to}, only ${transitions[from].join(' or ')}`;
}
