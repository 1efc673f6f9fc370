"""Opening an SMTP session: TCP, greeting, TLS and AUTH, by aiosmtplib; then the socket is handed over.

A `Dialer` belongs to one provider. `open` gives a transport that is ready for our own EHLO, or a `Trouble`: it never
raises for anything a network or a peer does, and every step has a deadline. It sends no mail.

Hazards: aiosmtplib drops octets that no command of its own asked for, so the hand-over is refused where its buffer is
not empty, and the engine's EHLO then proves that replies and commands are in step. A password crosses a plain
connection only where `tls = "none"` was written down.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from typing import cast

import aiosmtplib

from mailerd.config.provider import Provider
from mailerd.message import Phase, Trouble, clean
from mailerd.smtp.reply import split_enhanced, tidy

__all__ = ["Dialer"]

METHODS = ("plain", "login")  # in the order they are tried, if offered (RFC 4616, draft-murchison-sasl-login)
PARAMETER_UNKNOWN = 504  # RFC 4954 §4: this mechanism is not known after all


class _Refused(Exception):
    """Carries a `Trouble` out of a step. Never leaves this file."""

    def __init__(self, trouble: Trouble) -> None:
        super().__init__(str(trouble))
        self.trouble = trouble


class _NamedContext(ssl.SSLContext):
    """A TLS context that asks for, and checks, `name` instead of the name that was connected to."""

    name: str | None = None

    def wrap_bio(  # type: ignore[no-untyped-def]
        self, incoming, outgoing, server_side=False, server_hostname=None, session=None
    ) -> ssl.SSLObject:
        return super().wrap_bio(incoming, outgoing, server_side, self.name or server_hostname, session)


class Dialer:
    """Opens connections to one provider, from one source address. `helo` is the name we say, once known."""

    def __init__(self, provider: Provider) -> None:
        self.provider = provider
        self.helo = provider.helo or ""
        self._context: ssl.SSLContext | None = None

    async def open(self) -> asyncio.Transport | Trouble:
        """A transport past greeting, TLS and AUTH, as `tls` and `username` ask. Cancellable; leaks no socket."""
        times = self.provider.timeouts
        opportunistic = self.provider.tls == "opportunistic"
        try:
            await self._prepare()
            async with asyncio.timeout(times.connect + 6 * times.greeting):
                try:
                    return await self._session(plain=False)
                except _Refused as refused:
                    if not (opportunistic and refused.trouble.phase is Phase.STARTTLS):
                        raise
                    # RFC 7435 §3: opportunistic security falls back to what would have been done without it.
                    return await self._session(plain=True)
        except _Refused as refused:
            return refused.trouble
        except TimeoutError:
            return Trouble(Phase.CONNECT, text="no session within the deadlines of connect and greeting")
        except (OSError, ValueError, aiosmtplib.SMTPException) as error:
            return _trouble(Phase.CONNECT, error)

    # -- steps -------------------------------------------------------------------------------------------------------

    async def _prepare(self) -> None:
        """What is worked out once: our name, and the TLS context (reading authorities takes milliseconds)."""
        if not self.helo:
            name = ""
            try:
                async with asyncio.timeout(min(2.0, self.provider.timeouts.connect)):
                    name = await asyncio.to_thread(socket.getfqdn)
            except TimeoutError:
                name = socket.gethostname()
            # RFC 5321 §4.1.3: a client without a name of its own says an address literal.
            self.helo = name if name.isascii() and name.isprintable() and " " not in name and name else "[127.0.0.1]"
        if self._context is None and self.provider.tls != "none":
            try:
                self._context = await asyncio.to_thread(_context, self.provider)
            except (OSError, ValueError) as error:
                raise _Refused(Trouble(Phase.STARTTLS, text=f"tls_ca: {error}")) from error

    async def _session(self, *, plain: bool) -> asyncio.Transport:
        """One attempt; `plain` leaves out TLS, whatever is offered. Raises `_Refused`."""
        provider = self.provider
        sock = await self._dial()
        try:
            client = aiosmtplib.SMTP(
                hostname=provider.host,
                sock=sock,
                local_hostname=self.helo,
                timeout=provider.timeouts.greeting,
                use_tls=provider.tls == "implicit",
                start_tls=False,
                tls_context=self._context,
            )
        except ValueError:  # a `helo` that is no name
            sock.close()
            raise
        done = False
        try:
            await self._greeting(client)
            encrypted = provider.tls == "implicit"
            if provider.tls in ("starttls", "opportunistic") and not plain:
                encrypted = await self._starttls(client)
            if provider.username is not None:
                await self._auth(client, encrypted)
            transport = _hand_over(client)
            done = True
            return transport
        finally:
            if not done:
                # The socket is a transport's now, which may still be saying farewell over TLS. Closing it here would
                # pull it from under the event loop; shut down, it is closed by its owner at once.
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
                client.close()

    async def _dial(self) -> socket.socket:
        """A connected TCP socket. The addresses of the host are tried in the resolver's order."""
        provider = self.provider
        source = provider.source[0] if provider.source else None
        loop = asyncio.get_running_loop()
        errors: list[str] = []
        try:
            async with asyncio.timeout(provider.timeouts.connect):
                found = await loop.getaddrinfo(provider.host, provider.port, type=socket.SOCK_STREAM)
                for family, kind, protocol, _, address in found:
                    sock = socket.socket(family, kind, protocol)
                    try:
                        sock.setblocking(False)
                        if source is not None:
                            if (":" in source) != (family == socket.AF_INET6):
                                errors.append(f"{address[0]}: not of the family of source {source}")
                                sock.close()
                                continue
                            sock.bind((source, 0))
                        await loop.sock_connect(sock, address)
                    except OSError as error:
                        sock.close()
                        # asyncio puts its own words into strerror.
                        errors.append(f"{address[0]}: {os.strerror(error.errno) if error.errno else error}")
                        continue
                    except BaseException:
                        sock.close()
                        raise
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                    return sock
        except TimeoutError:
            errors.append(f"no connection within {provider.timeouts.connect:g} s")
        except OSError as error:  # the name does not resolve
            errors.append(str(error.strerror or error))
        raise _Refused(
            Trouble(Phase.CONNECT, text=clean(f"{provider.host} port {provider.port}: " + "; ".join(errors)))
        )

    async def _greeting(self, client: aiosmtplib.SMTP) -> None:
        try:
            await client.connect()
        except aiosmtplib.SMTPConnectResponseError as error:
            raise _Refused(_trouble(Phase.GREETING, error)) from error
        except (OSError, aiosmtplib.SMTPException) as error:
            # With implicit TLS a handshake that fails comes out here, as the cause.
            phase = Phase.STARTTLS if isinstance(error.__cause__, ssl.SSLError) else Phase.GREETING
            raise _Refused(_trouble(phase, error)) from error

    async def _ehlo(self, client: aiosmtplib.SMTP) -> None:
        try:
            await client.ehlo()
        except (OSError, aiosmtplib.SMTPException) as error:
            raise _Refused(_trouble(Phase.EHLO, error)) from error

    async def _starttls(self, client: aiosmtplib.SMTP) -> bool:
        """Whether the connection is encrypted now. Raises unless it is, or `tls` is opportunistic."""
        opportunistic = self.provider.tls == "opportunistic"
        try:
            await client.ehlo()
        except aiosmtplib.SMTPHeloError as error:
            if opportunistic and client.is_connected:
                return False  # the engine will try HELO
            raise _Refused(_trouble(Phase.EHLO, error)) from error
        except (OSError, aiosmtplib.SMTPException) as error:
            raise _Refused(_trouble(Phase.EHLO, error)) from error
        if not client.supports_extension("starttls"):
            if opportunistic:
                return False
            raise _Refused(Trouble(Phase.STARTTLS, text="the server does not offer STARTTLS"))
        try:
            await client.starttls()
        except (OSError, aiosmtplib.SMTPException) as error:
            raise _Refused(_trouble(Phase.STARTTLS, error)) from error
        return True

    async def _auth(self, client: aiosmtplib.SMTP, encrypted: bool) -> None:
        """AUTH (RFC 4954) by the first method that both sides know."""
        provider = self.provider
        if not encrypted and provider.tls != "none":
            raise _Refused(Trouble(Phase.AUTH, text="the connection is not encrypted: the password was not sent"))
        if client.is_ehlo_or_helo_needed:
            await self._ehlo(client)
        offered = client.server_auth_methods
        username, password = provider.username or "", provider.password or ""
        trouble = Trouble(Phase.AUTH, text=f"no AUTH method in common: the server offers {' '.join(offered) or 'none'}")
        for method in METHODS:
            if method not in offered:
                continue
            try:
                await (client.auth_plain if method == "plain" else client.auth_login)(username, password)
            except aiosmtplib.SMTPAuthenticationError as error:
                trouble = _trouble(Phase.AUTH, error)
                if error.code != PARAMETER_UNKNOWN:
                    break  # more tries with the same password only lock the account
            except (OSError, aiosmtplib.SMTPException) as error:
                raise _Refused(_trouble(Phase.AUTH, error)) from error
            else:
                return
        raise _Refused(trouble)


def _hand_over(client: aiosmtplib.SMTP) -> asyncio.Transport:
    """The transport, if nobody would miss or misread an octet."""
    protocol, transport = client.protocol, client.transport
    if protocol is None or transport is None or transport.is_closing() or protocol.transport is not transport:
        raise _Refused(Trouble(Phase.GREETING, text="connection closed by the peer"))
    if protocol._buffer:
        raise _Refused(Trouble(Phase.GREETING, text="the server sent octets that nothing asked for"))
    return cast("asyncio.Transport", transport)


def _context(provider: Provider) -> ssl.SSLContext:
    """TLS 1.2 or newer; verified but for `opportunistic`. Reads files."""
    context = _NamedContext(ssl.PROTOCOL_TLS_CLIENT)
    context.name = provider.tls_name
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if provider.tls == "opportunistic":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif provider.tls_ca is not None:
        context.load_verify_locations(cafile=provider.tls_ca)
    else:
        context.load_default_certs()
    return context


def _trouble(phase: Phase, error: BaseException) -> Trouble:
    """An exception of aiosmtplib or the network as a value."""
    if isinstance(error, aiosmtplib.SMTPResponseException) and error.code > 0:
        return Trouble(phase, error.code, *split_enhanced(error.code, _tidy(error.message)))
    cause = error.__cause__
    text = str(cause) if isinstance(cause, ssl.SSLError) else str(getattr(error, "message", "") or error)
    if not text:
        text = "no reply in time" if isinstance(error, TimeoutError) else type(error).__name__
    return Trouble(phase, text=_tidy(text))


def _tidy(text: str) -> str:
    return tidy(text.encode("utf-8", "surrogateescape"))
