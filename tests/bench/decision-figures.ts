/** What a decision costs a principal in very many groups. */
import { buildFromDocuments, DecisionCache, decisionCacheBytesMax } from '@sallyport/data-plane';
import {
  AccessRequest,
  type ConfigDocument,
  defaultLimits,
  grantDefaults,
  type PrincipalRecord,
} from '@sallyport/schema';
import type { Figures } from './figures.ts';

const decisionMicrosecondsMax = 20;
const groupsOfPrincipal = 200;
const rounds = 50_000;

const id = (kind: string, n: number): string => `00000000-${kind}-7000-8000-${String(n).padStart(12, '0')}`;

const principal: PrincipalRecord = {
  id: id('0002', 1),
  kind: 'user',
  name: 'In many groups',
  status: 'active',
  groups: Array.from({ length: groupsOfPrincipal }, (_, n) => id('0001', n)),
  epoch: 0,
  expiresAt: null,
  revokedFamilies: [],
  keys: [],
};
const serverIds = Array.from({ length: 64 }, (_, n) => id('0003', n));

/** A server with fifty tools and fifty grants, most of them of groups that the principal is in. */
function documentsOf(serverId: string, n: number): ConfigDocument[] {
  return [
    {
      kind: 'server',
      id: serverId,
      slug: `server-${n}`,
      lifecycle: 'approved',
      url: 'https://mcp.example.com/mcp',
      protocolRevisions: ['2026-07-28'],
      transport: 'streamableHttp',
      extensions: [],
      labels: {},
      definitions: Array.from({ length: 50 }, (_, tool) => ({
        kind: 'tool',
        name: `tool_${tool}`,
        state: 'approved',
        approvedDigests: [],
        labels: null,
      })),
      auditMode: 'buffered',
      configStalenessMaxMs: null,
    },
    {
      kind: 'grants',
      serverId,
      grants: Array.from({ length: 50 }, (_, grant) => ({
        ...grantDefaults,
        id: id('0004', n * 100 + grant),
        subject: { kind: 'group', id: id('0001', grant * 5) },
        effect: 'allow',
        tools: ['tool_*'],
      })),
    },
  ];
}

/** Over many servers in turn, so that no stage's answer is still at hand for the next. */
export function addDecisionFigures(figures: Figures): void {
  const keys = [{ id: 'k', secret: Buffer.alloc(32).toString('base64'), use: 'seal' as const }];
  const { runtime } = buildFromDocuments([
    defaultLimits,
    { kind: 'keys', sealing: keys },
    ...serverIds.flatMap(documentsOf),
  ]);
  const cache = new DecisionCache({ bytesMax: decisionCacheBytesMax });
  const servers = serverIds.flatMap((serverId) => runtime.serverById.get(serverId) ?? []);
  const client = { name: '', version: '', address: '' };
  const decide = (n: number): boolean => {
    const server = servers[n % servers.length];
    if (server === undefined) throw new Error('there are no servers');
    const facts = {
      principal: { ...principal, groups: [] },
      server: { slug: server.document.slug, labels: {} },
      client,
    };
    const request = () => new AccessRequest({ ...facts, nowMs: 0, contactAgeMs: 0 }, null);
    return cache.get(server, principal, 0).decide({ kind: 'tool', name: `tool_${n % 50}` }, request).effect === 'allow';
  };
  for (let n = 0; n < rounds; n++) if (!decide(n)) throw new Error('not allowed');
  const before = process.threadCpuUsage();
  for (let n = 0; n < rounds; n++) decide(n);
  const { user, system } = process.threadCpuUsage(before);
  const microseconds = (user + system) / rounds;
  const name = `a decision for a principal in ${groupsOfPrincipal} groups, warm`;
  figures.add(name, microseconds, 'µs', { most: decisionMicrosecondsMax });
}
