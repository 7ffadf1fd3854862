"""From the configuration as written to the farm that decisions are made with."""

from rdpbalancer.core.farm import (
    AgentPolicy,
    Farm,
    HealthPolicy,
    Limits,
    PersistencePolicy,
    RealServer,
    Timeouts,
    VirtualService,
)
from rdpbalancer.model import ServerId
from rdpbalancer.settings import schema

_PROXY_VERSIONS = {"off": 0, "v1": 1, "v2": 2}


def farm_of(settings: schema.Settings) -> Farm:
    """Return the farm that `settings` describes."""
    return Farm({service.name: _service(service) for service in settings.virtual_services})


def _service(service: schema.VirtualServiceSettings) -> VirtualService:
    return VirtualService(
        name=service.name,
        listen=service.listen,
        servers=tuple(_server(service, server) for server in service.real_servers),
        mode=service.mode,
        scheduler=service.scheduler,
        persistence=_persistence(service.persistence),
        timeouts=Timeouts(
            handshake_s=service.timeouts.handshake,
            connect_s=service.timeouts.connect,
            confirm_s=service.timeouts.confirm,
            queue_s=service.timeouts.queue,
            idle_s=service.timeouts.idle,
        ),
        limits=_limits(service.limits),
        require_security=service.require_security,
        accept_proxy=service.accept_proxy,
        send_proxy=_PROXY_VERSIONS[service.send_proxy],
        slow_start_s=service.slow_start,
        kick_on_down=service.on_down == "kick",
        redispatch=service.redispatch,
    )


def _server(service: schema.VirtualServiceSettings, server: schema.RealServerSettings) -> RealServer:
    agent = server.feedback_agent
    return RealServer(
        id=ServerId(service.name, server.name),
        address=server.address,
        weight=server.weight,
        max_connections=server.max_connections,
        min_connections=server.min_connections,
        backup=server.backup,
        token_addresses=server.token_addresses,
        health=_health(server.health_check),
        agent=None
        if agent is None
        else AgentPolicy(agent.port, agent.interval, agent.timeout, agent.stale_after),
    )


def _health(check: schema.HealthCheckSettings) -> HealthPolicy:
    return HealthPolicy(
        type=check.type,
        interval_s=check.interval,
        fast_interval_s=check.fast_interval,
        timeout_s=check.timeout,
        rise=check.rise,
        fall=check.fall,
        observe=check.observe,
        port=check.port,
    )


def _persistence(persistence: schema.PersistenceSettings) -> PersistencePolicy:
    return PersistencePolicy(
        methods=persistence.methods,
        timeout_s=persistence.timeout,
        max_entries=persistence.max_entries,
        wait_when_full=persistence.when_full == "wait",
        strip_domain=persistence.strip_domain,
        min_user_chars=persistence.min_user_chars,
        ipv4_prefix=persistence.ipv4_prefix,
        ipv6_prefix=persistence.ipv6_prefix,
        collision_sources=persistence.collision_sources,
        collision_next_method=persistence.on_collision == "next-method",
    )


def _limits(limits: schema.LimitSettings) -> Limits:
    return Limits(
        max_sessions=limits.max_sessions,
        source_sessions=limits.per_source.sessions,
        source_half_open=limits.per_source.half_open,
        source_rate=limits.per_source.rate.count,
        source_rate_interval_s=limits.per_source.rate.interval_s,
        allow=limits.allow,
        deny=limits.deny,
    )
