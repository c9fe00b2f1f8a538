import type { IncomingMessage } from 'node:http';
import type { Clock, Log } from '@sallyport/schema/platform';
import type { Database } from '../database/client.ts';
import type { PublicUrls } from './compile-snapshot.ts';
import { type FleetKey, FleetVault, openFleet } from './fleet-keys.ts';
import { JoinTokenService } from './join-token.service.ts';
import { ManifestFeed } from './manifest-feed.ts';
import { NodeAdmission } from './node-admission.ts';
import type { ConnectionDependencies } from './node-connection.ts';
import { NodeReports } from './node-reports.ts';
import { NodeService } from './node.service.ts';
import { NodeWatch } from './node-watch.ts';
import { SnapshotPublisher, type SnapshotPublisherOptions } from './publish-snapshot.ts';
import { ensureSigningKey, SigningKeyService } from './signing-keys.ts';
import { SyncServer } from './sync-server.ts';

export interface FleetOptions
  extends Pick<
      ConnectionDependencies,
      'watermarksOf' | 'spoolEpochsReported' | 'recordHealth' | 'doubtServer' | 'definitionsSighted' | 'lend'
    >,
    Pick<SnapshotPublisherOptions, 'onCompiled'> {
  readonly database: Database;
  /** SALLYPORT_SECRET_KEY. */
  readonly secretKey: string;
  /** Where clients reach the planes; without them there is no authorization server. */
  readonly publicUrls?: PublicUrls | undefined;
  readonly addressOf: (request: IncomingMessage) => string | null;
  readonly clock: Clock;
  readonly log: Log;
}

export interface FleetServices {
  readonly nodes: NodeService;
  readonly joinTokens: JoinTokenService;
  readonly signingKeys: SigningKeyService;
}

export interface Fleet extends FleetServices {
  readonly fleetKey: FleetKey;
  readonly publisher: SnapshotPublisher;
  readonly syncServer: SyncServer;
  readonly reports: NodeReports;
  stop(): Promise<void>;
}

/** What the API offers of the fleet; needs nothing to run. */
export function createFleetServices(options: Pick<FleetOptions, 'database' | 'secretKey'>): FleetServices {
  const vault = new FleetVault(options.secretKey);
  return {
    nodes: new NodeService(options.database, vault),
    joinTokens: new JoinTokenService(options.database),
    signingKeys: new SigningKeyService(options.database, vault),
  };
}

/** Starts the configuration push: the reconciler, and the server that nodes connect to. */
export async function startFleet(options: FleetOptions): Promise<Fleet> {
  const { database, publicUrls, clock, log } = options;
  const vault = new FleetVault(options.secretKey);
  const fleetKey = await openFleet(database, vault, clock);
  if (publicUrls !== undefined) await ensureSigningKey(database, vault, clock);
  const { onCompiled } = options;
  const publisher = new SnapshotPublisher({ database, vault, publicUrls, clock, log, onCompiled });
  const feed = new ManifestFeed({ database, vault, log });
  const reports = new NodeReports({ database, clock });
  const connections = {
    admission: new NodeAdmission({ database, fleetKey, clock, log }),
    reports,
    feed,
    fleetKey,
    clock,
    log,
    watermarksOf: options.watermarksOf,
    spoolEpochsReported: options.spoolEpochsReported,
    recordHealth: options.recordHealth,
    doubtServer: options.doubtServer,
    definitionsSighted: options.definitionsSighted,
    lend: options.lend,
  };
  const syncServer = new SyncServer(connections, options.addressOf);
  const services = createFleetServices(options);
  const watch = new NodeWatch({ database, nodes: services.nodes, clock, log });
  await feed.start();
  await publisher.start();
  syncServer.start();
  watch.start();
  return {
    fleetKey,
    publisher,
    syncServer,
    reports,
    ...services,
    stop: async () => {
      await watch.stop();
      await publisher.stop();
      await syncServer.stop();
      await feed.stop();
    },
  };
}
