import { freePort, isPortFree } from './ports.ts';

/** Each use of a port, with the one taken on a first start when it is free; 0: any. */
const preferredPorts = {
  entry: 7750,
  api: 7751,
  apiOperations: 0,
  node1: 0,
  node1Operations: 0,
  node2: 0,
  node2Operations: 0,
  postgres: 0,
  everything: 0,
  example: 0,
} as const;

export type PortUse = keyof typeof preferredPorts;
export type Ports = Readonly<Record<PortUse, number>>;

const uses: readonly PortUse[] = [
  'entry',
  'api',
  'apiOperations',
  'node1',
  'node1Operations',
  'node2',
  'node2Operations',
  'postgres',
  'everything',
  'example',
];

export interface ChosenPorts {
  readonly ports: Ports;
  /** Sentences on ports that had to be others than last time or by default. */
  readonly notices: readonly string[];
}

/**
 * A port for each use: the one asked for, else the one of the last start, else the default one, else any that is free.
 * @throws Error when a port that was asked for is busy; another in its place would be a surprise.
 */
export async function choosePorts(
  asked: Partial<Readonly<Record<'entry' | 'api', number | undefined>>>,
  last: Readonly<Record<string, number>>,
): Promise<ChosenPorts> {
  const chosen: Partial<Record<PortUse, number>> = {};
  const notices: string[] = [];
  for (const use of uses) {
    const wanted = use === 'entry' || use === 'api' ? asked[use] : undefined;
    const taken = Object.values(chosen);
    if (wanted !== undefined) {
      if (taken.includes(wanted) || !(await isPortFree(wanted))) throw busy(use, wanted);
      chosen[use] = wanted;
      continue;
    }
    const preferred = last[use] ?? preferredPorts[use];
    const usable = preferred > 0 && !taken.includes(preferred) && (await isPortFree(preferred));
    chosen[use] = usable ? preferred : await freePortBesides(taken);
    if (!usable && preferred > 0 && preferredPorts[use] > 0) {
      notices.push(`Port ${preferred} is used by another program, so ${chosen[use]} is taken instead.`);
    }
  }
  return { ports: complete(chosen), notices };
}

async function freePortBesides(taken: readonly number[]): Promise<number> {
  for (;;) {
    const port = await freePort();
    if (!taken.includes(port)) return port;
  }
}

function complete(chosen: Partial<Record<PortUse, number>>): Ports {
  const port = (use: PortUse): number => chosen[use] ?? 0;
  return {
    entry: port('entry'),
    api: port('api'),
    apiOperations: port('apiOperations'),
    node1: port('node1'),
    node1Operations: port('node1Operations'),
    node2: port('node2'),
    node2Operations: port('node2Operations'),
    postgres: port('postgres'),
    everything: port('everything'),
    example: port('example'),
  };
}

function busy(use: PortUse, port: number): Error {
  const option = use === 'entry' ? '--port' : '--api-port';
  return new Error(
    `Port ${port} is used by another program. Stop that program, or choose another port with ${option}, ` +
      'or leave the option out and a free one is taken.',
  );
}
