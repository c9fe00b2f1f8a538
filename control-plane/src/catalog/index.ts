export { DiscoveryJob, type DiscoveryJobDependencies, type DiscoveryJobOptions } from './discovery.job.ts';
export { DiscoveryService } from './discovery.service.ts';
export { controlPlaneObserver, HealthService } from './health.service.ts';
